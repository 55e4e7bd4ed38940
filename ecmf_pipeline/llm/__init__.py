"""The LLM: emotional cues for the text branch, and votes.

``prompt`` says what is asked, ``schema`` what a form may hold. ``answers`` keeps what was answered, and asks only what
it does not hold: ``scoring`` of labels, ``generation`` of forms, ``frames`` of clips. Models of this machine answer
through ``local`` and ``local_generation``, servers through ``requests`` and ``server``, within what ``server_run``
allows. ``rewriting`` and ``votes`` make of the answers what the stages write.
"""
