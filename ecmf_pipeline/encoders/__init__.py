"""Encoders: frozen models that turn one modality of a clip into features.

Light on import: `config` holds the params (no torch), `base` the contract, and `registry` imports the module of an
encoder when the encoder is built.
"""
