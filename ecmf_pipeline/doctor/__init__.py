"""`ecmf-pipe doctor`: find problems of a long run before it starts.

``checks`` defines the result of a check, ``models`` loads the models, ``corpus`` reads the corpus, ``trial`` extracts
features of a few clips and measures the time, and ``run`` makes all checks in order. All output goes to a temporary
folder. The project is not changed, except that digests of weights are cached (`data/.digests.json`).
"""
