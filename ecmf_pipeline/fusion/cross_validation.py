"""Cross-validation: every labelled clip predicted by models that never saw it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.core.metrics import scores
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import encode_labels, group_names
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.training import fit


@dataclass(frozen=True)
class CrossValidation:
    """Out-of-fold predictions of n clips.

    Attributes:
        probs: Probability of each label, (n, C); a row of NaN where a clip has no modality.
        predictions: The likeliest label in the type of the labels handed in, (n,): integers (of bools too), floats or
            names; -1 or "" where there is none.
        modality_weights: Share of each modality, (n, M).
        metrics: `metrics.scores` over the clips that have a label and a prediction, and ``unpredicted``: how many have
            a label alone. With ``protocol: mertools`` also ``mertools``: the same scores of models that kept the epoch
            which does best on the very fold they are judged by.
        folds: The fold that held each clip out, (n,).
        ensemble: The models, to predict other clips with.
    """

    probs: NDArray[np.float32]
    predictions: NDArray[Any]
    modality_weights: NDArray[np.float32]
    metrics: dict[str, Any]
    folds: NDArray[np.int64]
    ensemble: Ensemble


def cross_validate(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    groups: Iterable[Any] | None = None,
    masks: Mapping[str, ArrayLike] | None = None,
    fusion: FusionConfig | None = None,
    training: TrainingConfig | None = None,
    *,
    weights: ArrayLike | None = None,
    label_names: Sequence[str] | None = None,
) -> CrossValidation:
    """Train in folds and predict each clip with the models of the fold that held it out.

    Args and errors are those of `training.fit`; `TooFewClips` also where not one labelled clip can be predicted.
    """
    classes, names = encode_labels(labels, label_names)
    training = training or TrainingConfig()
    groups = None if groups is None else group_names(groups)
    train = partial(
        fit,
        features,
        labels,
        groups=groups,
        masks=masks,
        weights=weights,
        label_names=names,
        fusion=fusion,
        training=training,
    )
    ensemble = train(description="cross-validate")
    folds = ensemble.held_out(str(row) for row in range(len(classes)))
    prediction = ensemble.predict(features, folds, masks)
    found = prediction.classes
    metrics = _scores(classes, found, names)
    if training.protocol == "mertools":
        too_good = train(description="cross-validate as the baseline does", optimistic=True)
        metrics["mertools"] = _scores(classes, too_good.predict(features, folds, masks).classes, names)
    return CrossValidation(
        prediction.probs, prediction.predictions, prediction.modality_weights, metrics, folds, ensemble
    )


def _scores(classes: NDArray[np.int64], found: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    judged = (classes >= 0) & (found >= 0)
    if not judged.any():
        raise TooFewClips(
            f"none of {int((classes >= 0).sum())} labelled clips has a modality that the models listen to",
            "choose a fusion kind whose modality is there: all its rows are NaN, or masked",
        )
    told: dict[str, Any] = scores([names[i] for i in classes[judged]], [names[i] for i in found[judged]], names)
    told["unpredicted"] = int(((classes >= 0) & (found < 0)).sum())
    return told
