"""Encoders: frozen models that turn one modality of a clip into features.

`config` holds the params and does not import torch; `base` defines the interface; `registry` imports the module of an
encoder when the encoder is built.
"""
