"""`ecmf-pipe doctor`: what a long run would stumble over, found before it starts.

``checks`` says what a check tells, ``models`` loads what is to be loaded, ``trial`` sends a few clips through the real
extraction and projects what the rest will take, ``run`` does it all in order. Everything that is written goes into a
temporary folder. Nothing of the project is touched, but that digests of weights are remembered (`data/.digests.json`).
"""
