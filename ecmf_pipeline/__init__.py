"""A staged, cached and reproducible pipeline for multimodal emotion recognition in short video clips (after ECMF).

The stable names are in the packages `store`, `fusion` and `labels`; ``docs/reference/python.md`` lists them.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["fusion", "labels", "store"])
