"""A staged, cached and reproducible pipeline for multimodal emotion recognition in short video clips (after ECMF)."""

__version__ = "0.1.0"
