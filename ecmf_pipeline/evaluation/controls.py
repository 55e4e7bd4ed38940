"""Does training on refined labels help, beyond what simpler things do? The same classifier, trained on each set.

A linear classifier on all modalities stands in for the fusion model, which takes too long to train six times; the
fusion's own comparison of given and refined labels stands beside it. Every clip is judged by a classifier that was
trained on no clip of its fold, labelled, pseudo-labelled or otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.evaluation.scoring import Judge
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.training import fit
from ecmf_pipeline.labels.config import LinearConfig
from ecmf_pipeline.labels.refine import Decision, LabelAction
from ecmf_pipeline.labels.voters import vote

GIVEN = "given labels"
REBALANCED = "given labels, classes rebalanced"
VERDICTS = "given labels and verdicts, rebalanced"
DROPPED = "given labels without the dropped, rebalanced"
REFINED = "refined labels, rebalanced"
PSEUDO = "refined and pseudo-labels, rebalanced"

BALANCE = 0.5
"""Exponent of the class weights where classes are rebalanced, as in the fusion's training."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What one control trains on: labels (n,), -1 for clips it does not use, weights (n,), and the class weights."""

    labels: Ints
    weights: Floats
    balance: float


def training_sets(
    given: Ints, decisions: Sequence[Decision], labels: Sequence[str], verdicts: Ints
) -> dict[str, TrainingSet]:
    """The labels as given, with each simpler treatment, and as refined.

    Args:
        given: Given labels, (n,), -1 where there is none.
        decisions: What the refinement decided, one a clip, n.
        labels: The K label names.
        verdicts: Labels that a person vouches for, (n,), -1 where unknown; without any that control is left out.
    """
    index = {label: position for position, label in enumerate(labels)}
    refined = np.array([index.get(decision.refined_label, -1) for decision in decisions], np.int64)
    weights = np.array([decision.weight for decision in decisions])
    dropped = np.array([decision.decision is LabelAction.DROP for decision in decisions], dtype=bool)
    vouched = (given >= 0) | (verdicts >= 0)
    ones = np.ones(len(given))
    sets = {
        GIVEN: TrainingSet(given, ones, 0.0),
        REBALANCED: TrainingSet(given, ones, BALANCE),
        VERDICTS: TrainingSet(np.where(verdicts >= 0, verdicts, given), ones, BALANCE),
        DROPPED: TrainingSet(np.where(dropped, -1, given), ones, BALANCE),
        REFINED: TrainingSet(np.where(vouched, refined, -1), weights, BALANCE),
        PSEUDO: TrainingSet(refined, weights, BALANCE),
    }
    return {name: one for name, one in sets.items() if name != VERDICTS or (verdicts >= 0).any()}


def predict_out_of_fold(features: Floats, training: TrainingSet, folds: Ints, *, seed: int) -> Ints:
    """Label every clip by a linear classifier that was trained without its fold.

    Args:
        features: One row a clip, (n, D), NaN where it has none.
        training: What to learn.
        folds: The fold of every clip, (n,).
        seed: Seed of the classifier.

    Returns:
        Labels, (n,), -1 where there are no features, or the training part has fewer than two classes.
    """
    voter = LinearConfig(balance=training.balance)
    present = ~np.isnan(features).any(axis=1)
    used = present & (training.labels >= 0) & (training.weights > 0)
    predicted = np.full(len(features), -1, np.int64)
    for fold in np.unique(folds[present]).tolist():
        learned, asked = np.flatnonzero(used & (folds != fold)), np.flatnonzero(present & (folds == fold))
        known, compact = np.unique(training.labels[learned], return_inverse=True)
        if len(known) < 2:
            continue
        weights = training.weights[learned]
        probs = vote(voter, features[learned], compact, features[asked], seed=seed, weights=weights)
        predicted[asked] = known[probs.argmax(axis=1)]
    return predicted


def compare(judge: Judge, clip_ids: Sequence[str], predictions: Mapping[str, Ints]) -> dict[str, Any]:
    """Score the labels that each control gives clips, (n,), and say which won; -1, no label, counts as wrong."""
    names = [*judge.labels, ""]  # -1 takes the last
    named = {
        name: dict(zip(clip_ids, [names[i] for i in found.tolist()], strict=True))
        for name, found in predictions.items()
    }
    results: dict[str, Any] = {}
    for name, predicted in named.items():
        scores = judge.scores(predicted)
        results[name] = {
            "weighted_f1": scores["weighted_f1"],
            "accuracy": scores["accuracy"],
            "over_given": judge.difference(predicted, named[GIVEN]),
            "over_rebalanced": judge.difference(predicted, named[REBALANCED]),
        }
    return {"judged_by": judge.by, "sets": results, "sentence": _sentence(judge, results)}


def _sentence(judge: Judge, results: Mapping[str, Any]) -> str:
    winner = max(results, key=lambda name: results[name]["weighted_f1"])
    said = f"the best of {len(results)} training sets is: {winner} (weighted F1 {results[winner]['weighted_f1']:.4f})"
    if judge.by != "gold":
        return f"{said}; no measure: the refinement was made from the labels that judge it"
    over = results[REFINED]["over_rebalanced"]
    interval = f"{over['difference']:+.4f} ({over['low']:+.4f} to {over['high']:+.4f})"
    if over["low"] > 0:
        return f"{said}; refined labels help beyond rebalancing, {interval}"
    if over["high"] < 0:
        return f"{said}; refined labels hurt against rebalancing alone, {interval}"
    return f"{said}; refined labels are not shown to help beyond rebalancing, {interval}"


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
    if training.class_weights == "none":
        there = {GIVEN: trained["given"]}
    else:
        there = {REBALANCED: trained["given"], PSEUDO: trained["refined"]}
    found = {}
    for name, chosen in sets.items():
        if name in there:
            found[name] = np.where(np.array(there[name].flags) != "", -1, there[name].probs.argmax(axis=1))
            continue
        balanced = training.class_weights if training.class_weights != "none" else "sqrt"
        ensemble = fit(
            features,
            chosen.labels,
            groups=[clip.group for clip in clips],
            weights=chosen.weights,
            folds=folds,
            clip_ids=[clip.clip_id for clip in clips],
            label_names=labels,
            fusion=fusion,
            training=training.model_copy(update={"class_weights": balanced if chosen.balance else "none"}),
            description=f"control: {name}",
        )
        found[name] = ensemble.predict(features, folds).classes
    return found
