"""Transcribe clips without transcript with Whisper, with a confidence for each transcript.

``config`` holds the settings, ``whisper`` runs the model, ``run`` transcribes the files that the cache lacks, and
``table`` reads and writes the table that later stages use.
"""
