"""Language models: emotional cues for the text branch, and votes.

``prompt`` renders the prompts and ``schema`` defines the form of an answer. ``answers`` caches answers and sends only
new questions: ``scoring`` scores labels, ``generation`` fills in forms, ``frames`` scores labels from pictures. Local
models run in ``local`` and ``local_generation``; servers are called by ``requests`` and ``server`` within the limits of
``server_run``. ``rewriting`` and ``votes`` turn the answers into the output of the stages.
"""
