"""The controls trained with the fusion model itself, as params have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecmf_pipeline.clips import Clip
from ecmf_pipeline.evaluation.controls import GIVEN, PSEUDO, REBALANCED, TrainingSet
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.training import fit
from ecmf_pipeline.predictions import PredictionTable

Ints = NDArray[np.int64]


def fusion_predictions(
    features: Mapping[str, NDArray[np.float32]],
    sets: Mapping[str, TrainingSet],
    folds: Ints,
    clips: Sequence[Clip],
    labels: Sequence[str],
    *,
    fusion: FusionConfig,
    training: TrainingConfig,
    trained: Mapping[str, PredictionTable],
) -> dict[str, Ints]:
    """Label every clip by fusion models that were trained on each set, without the clip's fold.

    Args:
        features: By modality, (n, D), a row of NaN where a clip has none.
        sets: The training sets by name; `TrainingSet.balance` above 0 asks for class weights.
        folds: The fold of every clip, (n,): that of the pipeline's own training.
        clips: The n clips.
        labels: The K label names.
        fusion: The model.
        training: How it is trained; class weights are its own, or the square root ones where it has none.
        trained: Predictions of what the pipeline has trained already: on ``given`` and on ``refined`` labels. They are
            taken for the sets they were trained on.

    Returns:
        Labels by set, (n,), -1 where no modality can judge.

    Raises:
        TooFewClips: When a set leaves too little to train on outside some fold.
    """
    there = _trained_already(trained, training)
    found = {}
    for name, chosen in sets.items():
        if name in there:
            found[name] = _labels_of(there[name].probs, list(map(bool, there[name].flags)))
            continue
        ensemble = fit(
            features,
            chosen.labels,
            groups=[clip.group for clip in clips],
            weights=chosen.weights,
            folds=folds,
            clip_ids=[clip.clip_id for clip in clips],
            label_names=labels,
            fusion=fusion,
            training=training.model_copy(update={"class_weights": _class_weights(chosen, training)}),
            description=f"control: {name}",
        )
        probs = ensemble.predict(features, folds).probs
        found[name] = _labels_of(probs, np.isnan(probs).any(axis=1))
    return found


def _class_weights(chosen: TrainingSet, training: TrainingConfig) -> str:
    if chosen.balance == 0:
        return "none"
    return training.class_weights if training.class_weights != "none" else "sqrt"


def _trained_already(trained: Mapping[str, PredictionTable], training: TrainingConfig) -> dict[str, PredictionTable]:
    """What the pipeline's two trainings are called among the controls."""
    if training.class_weights == "none":
        return {GIVEN: trained["given"]}
    return {REBALANCED: trained["given"], PSEUDO: trained["refined"]}


def _labels_of(probs: NDArray[np.float32], silent: ArrayLike) -> Ints:
    labels: Ints = np.where(np.asarray(silent, dtype=bool), -1, np.nan_to_num(probs).argmax(axis=1)).astype(np.int64)
    return labels
