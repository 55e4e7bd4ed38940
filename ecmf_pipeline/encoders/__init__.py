"""Encoders: frozen models that turn one modality of a clip into features.

Light on import: `config` holds the params (no torch), `base` the contract; each encoder's module is imported when its
config is built.
"""
