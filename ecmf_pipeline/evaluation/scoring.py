"""Score predictions on labels that they were not made from, and score labels before and after refinement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ecmf_pipeline.core.arrays import (
    Bools,
    Floats,
    Ints,
    bootstrap_difference,
    bootstrap_f1,
    confusion,
    expected_calibration_error,
    scores,
)
from ecmf_pipeline.core.clips import Clip, Clips, Split
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.core.predictions import NO_MODALITY, PredictionTable
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.labels.refine import Decision, Decisions
from ecmf_pipeline.labels.voters import source_family

Predicted = Mapping[str, str] | Ints
"""Predicted labels: by clip id, or the index of the label of each evaluated clip, (m,), -1 for none."""

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class Evaluator:
    """True labels for evaluating predictions.

    These are gold labels if any clip has one. Otherwise they are the given labels of the training clips: predictions
    for these are out of fold, but the labels may be wrong, and the refinement used them.

    Attributes:
        by: ``gold`` or ``given``.
        labels: All labels, C of them.
        clips: The m evaluated clips: those with such a label.
        rows: Their numbers among all clips, (m,).
        truths: Their labels as indices, (m,).
    """

    def __init__(self, clips: Sequence[Clip], labels: Sequence[str], config: EvaluateConfig) -> None:
        columns = Clips.of(clips)
        self.labels = tuple(labels)
        gold = columns.indices("gold_label", labels)
        self.by = "gold" if (gold >= 0).any() else "given"
        truths = gold if self.by == "gold" else columns.indices("given_label", labels)
        self.rows: Ints = np.flatnonzero(truths >= 0)
        self.truths: Ints = truths[self.rows]
        self.clips = columns.take(self.rows)
        self._config = config

    def truth(self, clip: Clip) -> str:
        """Return the label to evaluate a clip on; empty if there is none."""
        return clip.gold_label if self.by == "gold" else clip.given_label

    @cached_property
    def splits(self) -> list[Split]:
        """The splits of which any clip is evaluated, in order."""
        return [split for split in Split if split.value in set(self.clips.splits)]

    @cached_property
    def groups(self) -> Ints | None:
        """Index of the group of each evaluated clip, (m,); see `groups_to_draw`."""
        return groups_to_draw(self.clips.groups)

    def scores(self, predicted: Predicted, split: Split | None = None) -> dict[str, Any]:
        """Score one model over all evaluated clips, or over those of one split."""
        chosen = np.ones(len(self.rows), np.bool_) if split is None else self.clips.column("split") == split.value
        return scores(self.truths[chosen], self._indices(predicted, chosen), self.labels)

    def confusion(self, predicted: Predicted) -> Ints:
        """Return the confusion matrix of one model, (C, C): rows are true labels, columns are predicted labels."""
        return confusion(self.truths, self._indices(predicted), len(self.labels))

    def difference(self, first: Predicted, second: Predicted) -> dict[str, float]:
        """Return the difference in weighted F1 between two models, with a paired bootstrap interval (95%).

        Whole groups are drawn if the group of each clip is known.
        """
        difference, low, high = bootstrap_difference(
            self._ranks(self._indices(first)),
            self._ranks(self._indices(second)),
            self._ranks(self.truths),
            rng=np.random.default_rng(self._config.seed),
            groups=self.groups,
            draws=self._config.draws,
        )
        return {"difference": round(difference, 6), "low": round(low, 6), "high": round(high, 6)}

    def interval(self, predicted: Predicted) -> tuple[float, float]:
        """Return the bounds of the 95% bootstrap interval of the weighted F1 of one model, drawn as in `difference`."""
        return bootstrap_f1(
            self._ranks(self._indices(predicted)),
            self._ranks(self.truths),
            rng=np.random.default_rng(self._config.seed),
            groups=self.groups,
            draws=self._config.draws,
        )

    def _indices(self, predicted: Predicted, chosen: Bools | None = None) -> Ints:
        """Return the predicted labels of the chosen clips as indices; -1 for other labels."""
        if not isinstance(predicted, Mapping):
            return predicted if chosen is None else predicted[chosen]
        index = {label: position for position, label in enumerate(self.labels)}
        clips = self.clips if chosen is None else self.clips.where(chosen)
        return np.array([index.get(predicted[clip_id], -1) for clip_id in clips.ids], np.int64)

    def _ranks(self, indices: Ints) -> Ints:
        """Return the ranks of the labels in alphabetical order: bootstrap samples do not depend on the order of C."""
        ranks = np.argsort(np.argsort(np.array(self.labels)))
        return np.append(ranks, -1)[indices]


def groups_to_draw(groups: Sequence[str]) -> Ints | None:
    """Return the index of each group, (n,), for a bootstrap over groups; None if some are unknown or there is one."""
    if not all(groups):
        return None
    names, indices = np.unique(np.array(groups), return_inverse=True)
    return indices.astype(np.int64) if len(names) > 1 else None


def evaluate(
    evaluator: Evaluator,
    clips: Sequence[Clip],
    given: Mapping[str, PredictionTable],
    refined: PredictionTable,
    decisions: Sequence[Decision],
    human_labels: Ints,
) -> dict[str, Any]:
    """Score all predictions and the refined labels.

    Args:
        evaluator: The evaluated clips and their labels.
        clips: The manifest.
        given: Predictions of the models trained on given labels: ``fusion``, and each modality alone by its name.
        refined: Predictions of the fusion trained on refined labels.
        decisions: Decisions of the refinement.
        human_labels: Human labels, (n,); -1 if unknown.

    Returns:
        The content of ``data/metrics/evaluate.json``. ``weighted_f1`` is that of the fusion trained on refined labels.

    Raises:
        MissingInput: If the predictions do not match the current corpus.
    """
    labels = evaluator.labels
    clip_ids = Clips.of(clips).ids
    for table in (*given.values(), refined):
        if table.clip_ids != clip_ids or table.label_names != labels:
            raise MissingInput(
                "predictions and corpus have different clips or labels",
                "train and predict again",
                command="ecmf-pipe train && ecmf-pipe predict",
            )
    fusion = {name: table.classes[evaluator.rows] for name, table in (("given", given["fusion"]), ("refined", refined))}
    single = {name: table.classes[evaluator.rows] for name, table in given.items() if name != "fusion"}
    headline = evaluator.scores(fusion["refined"])
    modalities = {name: _with_answered(evaluator, given[name], predicted) for name, predicted in single.items()}
    return {
        "weighted_f1": headline["weighted_f1"],
        "accuracy": headline["accuracy"],
        "clips": headline["clips"],
        "judged_by": evaluator.by,
        "model": "refined",
        "fusion": {
            "given": _with_answered(evaluator, given["fusion"], fusion["given"]),
            "refined": _with_answered(evaluator, refined, fusion["refined"]),
        },
        "modalities": modalities,
        "by_split": {
            split.value: {name: evaluator.scores(predicted, split) for name, predicted in fusion.items()}
            for split in evaluator.splits
        },
        "fusion_over_best_modality": _over_best(evaluator, fusion["given"], single, modalities),
        "refined_over_given": evaluator.difference(fusion["refined"], fusion["given"]),
        "labels": label_quality(clips, decisions, human_labels, labels) if evaluator.by == "gold" else None,
        "confusion": {"labels": list(labels), "counts": evaluator.confusion(fusion["refined"]).tolist()},
        "no_modality": refined.flags.count(NO_MODALITY),
    }


def _with_answered(evaluator: Evaluator, table: PredictionTable, predicted: Predicted) -> dict[str, Any]:
    """Return the scores of a model, and how many of the evaluated clips it could predict (``answered``)."""
    return {**evaluator.scores(predicted), "answered": int((~table.is_flagged[evaluator.rows]).sum())}


def _over_best(
    evaluator: Evaluator,
    fusion: Predicted,
    alone: Mapping[str, Predicted],
    modalities: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Compare the fusion with the best modality, which is selected on the same clips; this favours the modality."""
    if len(alone) < 2:
        return None
    best = max(alone, key=lambda name: modalities[name]["weighted_f1"])
    return {"best": best, "model": "given", **evaluator.difference(fusion, alone[best])}


def label_quality(
    clips: Sequence[Clip], decisions: Sequence[Decision], human_labels: Ints, labels: Sequence[str]
) -> dict[str, Any]:
    """Measure the training labels before and after refinement, over clips with a gold label.

    Args:
        clips: The manifest, (n,).
        decisions: Decisions of the refinement, (n,), in the same order.
        human_labels: Human labels, (n,); -1 if unknown. ``fixed_by_verdicts`` etc. count how much of ``fixed``,
            ``broken`` and ``pseudo`` comes from human labels and not from votes.
        labels: All labels.
    """
    rows = Decisions.of(decisions)
    gold = Clips.of(clips).indices("gold_label", labels)
    given, refined = rows.indices("given_label", labels), rows.indices("refined_label", labels)
    labelled, unlabelled = (gold >= 0) & (given >= 0), (gold >= 0) & (given < 0)
    used, unused, pseudo = labelled & rows.is_trained, labelled & ~rows.is_trained, unlabelled & rows.is_trained
    was_correct, correct, by_person = given == gold, refined == gold, (human_labels == refined) & (human_labels >= 0)
    fixed, broken = used & correct & ~was_correct, used & was_correct & ~correct

    def count(chosen: Bools) -> int:
        return int(chosen.sum())

    def accuracy(chosen: Bools, outcomes: Bools) -> dict[str, Any]:
        share = round(count(chosen & outcomes) / count(chosen), 6) if chosen.any() else None
        return {"clips": count(chosen), "accuracy": share}

    return {
        "given": accuracy(labelled, was_correct),
        "refined": accuracy(used, correct),
        "fixed": count(fixed),
        "fixed_by_verdicts": count(fixed & by_person),
        "broken": count(broken),
        "broken_by_verdicts": count(broken & by_person),
        "dropped_wrong": count(unused & ~was_correct),
        "dropped_right": count(unused & was_correct),
        "pseudo": accuracy(pseudo, correct),
        "pseudo_by_verdicts": count(pseudo & by_person),
    }


def reliability(posterior: Floats, truth: Ints) -> dict[str, Any]:
    """Return a reliability curve in ten bins, expected calibration error, and accuracy of the most confident clips.

    Args:
        posterior: Probabilities of the label model, (n, K).
        truth: True labels, (n,); -1 if unknown, which excludes the clip.
    """
    has_truth = truth >= 0
    confidence, correct = posterior[has_truth].max(axis=1), posterior[has_truth].argmax(axis=1) == truth[has_truth]
    bins = np.clip((confidence * 10).astype(int), 0, 9)
    curve = [
        {
            "clips": int((bins == bin_index).sum()),
            "confidence": round(float(confidence[bins == bin_index].mean()), 6),
            "accuracy": round(float(correct[bins == bin_index].mean()), 6),
        }
        for bin_index in np.unique(bins)
    ]
    most_confident = correct[np.argsort(-confidence, kind="stable")]
    counts = [max(1, round(share * len(correct))) for share in SHARES] if len(correct) else []
    return {
        "clips": int(has_truth.sum()),
        "accuracy": round(float(correct.mean()), 6) if len(correct) else None,
        "ece": round(expected_calibration_error(confidence, correct), 6) if len(correct) else None,
        "curve": curve,
        "coverage": [
            {"share": share, "accuracy": round(float(most_confident[:count].mean()), 6)}
            for share, count in zip(SHARES, counts, strict=False)
        ],
    }


def leave_one_out(
    votes: Mapping[str, Floats], truth: Ints, posterior_of: Callable[[Mapping[str, Floats]], Floats]
) -> dict[str, dict[str, Any]]:
    """Return accuracy and calibration error of the label model without each family of sources.

    Args:
        votes: Probabilities by source, (n, K).
        truth: True labels, (n,); -1 if unknown.
        posterior_of: The label model: a function from votes to probabilities, (n, K).

    Returns:
        Scores by omitted family; empty if there is only one family.
    """
    families = sorted(set(map(source_family, votes)))
    if len(families) < 2:
        return {}
    scores_by_family = {}
    for family in families:
        other_votes = {source: probs for source, probs in votes.items() if source_family(source) != family}
        scores = reliability(posterior_of(other_votes), truth)
        scores_by_family[family] = {"accuracy": scores["accuracy"], "ece": scores["ece"]}
    return scores_by_family
