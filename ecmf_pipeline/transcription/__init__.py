"""Transcribe clips without transcript with Whisper, and decide which transcripts are used.

``config`` holds the settings, ``recognition`` runs the model, ``run`` transcribes the files that the cache lacks,
``corrections`` reads the transcripts that people corrected, and ``table`` reads and writes the table that later stages
use.
"""
