"""Compare training on refined labels with simpler treatments of the given labels, using the same classifier.

A linear classifier on all modalities is used because the fusion model takes too long to train six times; the fusion
model's own comparison of given and refined labels is reported with it. Each clip is predicted by a classifier trained
on no clip of its fold, labelled or pseudo-labelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.clips import Clip, Clips
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.evaluation.scoring import Evaluator
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.training import fit
from ecmf_pipeline.labels.config import LinearConfig
from ecmf_pipeline.labels.refine import Decision, Decisions, LabelAction
from ecmf_pipeline.labels.voters import vote

GIVEN = "given labels"
REBALANCED = "given labels, classes rebalanced"
HUMAN_LABELS = "given labels and verdicts, rebalanced"
DROPPED = "given labels without the dropped, rebalanced"
REFINED = "refined labels, rebalanced"
PSEUDO = "refined and pseudo-labels, rebalanced"

BALANCE = 0.5
"""Exponent of the class weights in rebalanced sets, equal to that of the fusion's training."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Labels (n,), -1 for unused clips, weights (n,), and the class-weight exponent of one control."""

    labels: Ints
    weights: Floats
    balance: float


def training_sets(
    given: Ints, decisions: Sequence[Decision], labels: Sequence[str], human_labels: Ints
) -> dict[str, TrainingSet]:
    """Return the given labels, simpler treatments of them, and the refined labels, as training sets by name.

    Args:
        given: Given labels, (n,); -1 if there is none.
        decisions: Decisions of the refinement on the n clips.
        labels: The K label names.
        human_labels: Human labels, (n,); -1 if unknown. Without any, their control is omitted.
    """
    rows = Decisions.of(decisions)
    refined, weights = rows.indices("refined_label", labels), rows.column("weight")
    dropped = rows.indices("decision", [LabelAction.DROP]) == 0
    labelled = (given >= 0) | (human_labels >= 0)
    unit_weights = np.ones(len(given))
    sets = {
        GIVEN: TrainingSet(given, unit_weights, 0.0),
        REBALANCED: TrainingSet(given, unit_weights, BALANCE),
        HUMAN_LABELS: TrainingSet(np.where(human_labels >= 0, human_labels, given), unit_weights, BALANCE),
        DROPPED: TrainingSet(np.where(dropped, -1, given), unit_weights, BALANCE),
        REFINED: TrainingSet(np.where(labelled, refined, -1), weights, BALANCE),
        PSEUDO: TrainingSet(refined, weights, BALANCE),
    }
    return {
        name: training_set for name, training_set in sets.items() if name != HUMAN_LABELS or (human_labels >= 0).any()
    }


def predict_out_of_fold(features: Floats, training: TrainingSet, folds: Ints, *, seed: int) -> Ints:
    """Predict each clip with a linear classifier that was trained without its fold.

    Args:
        features: One row per clip, (n, D); NaN if the clip has none.
        training: The training set.
        folds: Fold of each clip, (n,).
        seed: Seed of the classifier.

    Returns:
        Labels, (n,); -1 without features, or if the training part has fewer than two classes.
    """
    voter = LinearConfig(balance=training.balance)
    present = ~np.isnan(features).any(axis=1)
    used = present & (training.labels >= 0) & (training.weights > 0)
    predicted = np.full(len(features), -1, np.int64)
    for fold in np.unique(folds[present]).tolist():
        training_rows, queries = np.flatnonzero(used & (folds != fold)), np.flatnonzero(present & (folds == fold))
        classes, class_indices = np.unique(training.labels[training_rows], return_inverse=True)
        if len(classes) < 2:
            continue
        weights = training.weights[training_rows]
        probs = vote(voter, features, class_indices, training_rows, queries, seed=seed, weights=weights)
        predicted[queries] = classes[probs.argmax(axis=1)]
    return predicted


def compare_controls(evaluator: Evaluator, predictions: Mapping[str, Ints]) -> dict[str, Any]:
    """Score the predictions of each control, (n,), and name the best one; -1 counts as wrong."""
    predictions_by_name = {name: indices[evaluator.rows] for name, indices in predictions.items()}
    results: dict[str, Any] = {}
    for name, predicted in predictions_by_name.items():
        scores = evaluator.scores(predicted)
        results[name] = {
            "weighted_f1": scores["weighted_f1"],
            "accuracy": scores["accuracy"],
            "over_given": evaluator.difference(predicted, predictions_by_name[GIVEN]),
            "over_rebalanced": evaluator.difference(predicted, predictions_by_name[REBALANCED]),
        }
    return {"judged_by": evaluator.by, "sets": results, "sentence": _sentence(evaluator, results)}


def _sentence(evaluator: Evaluator, results: Mapping[str, Any]) -> str:
    winner = max(results, key=lambda name: results[name]["weighted_f1"])
    sentence = (
        f"the best of {len(results)} training sets is: {winner} (weighted F1 {results[winner]['weighted_f1']:.4f})"
    )
    if evaluator.by != "gold":
        return f"{sentence}; not a valid comparison: the refinement used the evaluation labels"
    over = results[REFINED]["over_rebalanced"]
    interval = f"{over['difference']:+.4f} ({over['low']:+.4f} to {over['high']:+.4f})"
    if over["low"] > 0:
        return f"{sentence}; refined labels are better than rebalancing alone, {interval}"
    if over["high"] < 0:
        return f"{sentence}; refined labels are worse than rebalancing alone, {interval}"
    return f"{sentence}; no significant difference between refined labels and rebalancing alone, {interval}"


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
    """Predict each clip with fusion models trained on each set without the clip's fold.

    Args:
        features: Features by modality, (n, D); a row of NaN if the clip has none.
        sets: Training sets by name; a `TrainingSet.balance` above 0 enables class weights.
        folds: Fold of each clip, (n,), as in the pipeline's own training.
        clips: The n clips.
        labels: The K label names.
        fusion: Settings of the model.
        training: Settings of its training. Its class weights are used, or ``sqrt`` if it has none.
        trained: Predictions of models that the pipeline has already trained, on ``given`` and on ``refined`` labels.
            They are reused for the training sets that they correspond to.

    Returns:
        Predictions by set, (n,); -1 if the clip has no modality.

    Raises:
        TooFewClips: If outside some fold, a set has too few clips to train on.
    """
    if training.class_weights == "none":
        reused = {GIVEN: trained["given"]}
    else:
        reused = {REBALANCED: trained["given"], PSEUDO: trained["refined"]}
    predictions = {}
    for name, training_set in sets.items():
        if name in reused:
            predictions[name] = np.where(reused[name].is_flagged, -1, reused[name].classes)
            continue
        class_weights = training.class_weights if training.class_weights != "none" else "sqrt"
        ensemble = fit(
            features,
            training_set.labels,
            groups=Clips.of(clips).groups,
            weights=training_set.weights,
            folds=folds,
            clip_ids=Clips.of(clips).ids,
            label_names=labels,
            fusion=fusion,
            training=training.model_copy(update={"class_weights": class_weights if training_set.balance else "none"}),
            description=f"control: {name}",
        )
        predictions[name] = ensemble.predict(features, folds).classes
    return predictions
