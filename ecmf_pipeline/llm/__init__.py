"""The LLM: emotional cues for the text branch, and votes.

``config`` and ``prompt`` say what is asked, ``client`` what a model must answer, ``local`` does so with transformers,
``step`` is what workers do, ``cache`` and ``scoring`` see to it that nothing is asked twice, ``rewrite`` words the
answer.
"""
