"""The label model with its default settings, on random folds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.labels.config import LabelModelConfig
from ecmf_pipeline.labels.label_model import Assessment, assess_labels


def assess_by_default(votes: Any, given: Any, *, folds: NDArray[np.int64] | None = None, seed: int = 0) -> Assessment:
    """Run the label model; without ``folds``, in five random folds."""
    if folds is None:
        folds = np.random.default_rng(seed).permutation(len(given)) % 5
    return assess_labels(votes, given, folds=folds, config=LabelModelConfig())
