"""Words for clips that come without any: Whisper listens, and says how sure it is.

``config`` says which model, ``whisper`` runs it, ``run`` sees to it that no clip is listened to twice, and ``table`` is
what later stages read.
"""
