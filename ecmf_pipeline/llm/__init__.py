"""The LLM: emotional cues for the text branch, and votes.

``prompt`` and ``rewrite_prompt`` say what is asked, ``schema`` what a form may hold. ``run`` is the loop that asks only
what ``cache`` does not know: ``scoring`` of labels, and ``generation`` of forms. Models of this machine answer through
``local_scoring`` and ``local_generation``, servers through ``requests`` and ``server``. ``rewriting`` and ``votes``
make of the answers what the stages write.
"""
