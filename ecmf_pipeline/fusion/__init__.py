"""Fusion of the modalities into one prediction: the ECMF model, its training in folds, and its predictions.

The names below are loaded on first use, so that importing a configuration loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecmf_pipeline.fusion.config import FusionConfig, SearchConfig, TrainingConfig

if TYPE_CHECKING:
    from ecmf_pipeline.fusion.baselines import build
    from ecmf_pipeline.fusion.cross_validation import CrossValidation, cross_validate
    from ecmf_pipeline.fusion.model import EcmfFusion, FusionModel, FusionOutput
    from ecmf_pipeline.fusion.prediction import Ensemble, Prediction, load, predict, save
    from ecmf_pipeline.fusion.training import fit

__all__ = [
    "CrossValidation",
    "EcmfFusion",
    "Ensemble",
    "FusionConfig",
    "FusionModel",
    "FusionOutput",
    "Prediction",
    "SearchConfig",
    "TrainingConfig",
    "build",
    "cross_validate",
    "fit",
    "load",
    "predict",
    "save",
]

_HOMES = {
    "CrossValidation": "cross_validation",
    "EcmfFusion": "model",
    "Ensemble": "prediction",
    "FusionModel": "model",
    "FusionOutput": "model",
    "Prediction": "prediction",
    "build": "baselines",
    "cross_validate": "cross_validation",
    "fit": "training",
    "load": "prediction",
    "predict": "prediction",
    "save": "prediction",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
