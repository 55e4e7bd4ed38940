"""Fusion of modalities into one prediction: the ECMF model, its training in folds, and its predictions.

The names in ``__all__`` are stable. They are imported when they are first used, because most of them import torch.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ecmf_pipeline.fusion.config import FusionConfig as FusionConfig
    from ecmf_pipeline.fusion.config import SearchConfig as SearchConfig
    from ecmf_pipeline.fusion.config import TrainingConfig as TrainingConfig
    from ecmf_pipeline.fusion.estimator import FusionClassifier as FusionClassifier
    from ecmf_pipeline.fusion.prediction import Ensemble as Ensemble
    from ecmf_pipeline.fusion.prediction import Prediction as Prediction
    from ecmf_pipeline.fusion.training import CrossValidation as CrossValidation
    from ecmf_pipeline.fusion.training import cross_validate as cross_validate
    from ecmf_pipeline.fusion.training import fit as fit

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["FusionConfig", "SearchConfig", "TrainingConfig"],
        "estimator": ["FusionClassifier"],
        "prediction": ["Ensemble", "Prediction"],
        "training": ["CrossValidation", "cross_validate", "fit"],
    },
)
