"""Score predictions on labels that they were not made from, and score labels before and after refinement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import (
    Floats,
    Ints,
    bootstrap_difference,
    bootstrap_f1,
    confusion,
    expected_calibration_error,
    scores,
)
from ecmf_pipeline.core.clips import Clip, Split
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.core.predictions import NO_MODALITY, PredictionTable
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.labels.refine import Decision
from ecmf_pipeline.labels.voters import source_family

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class Evaluator:
    """True labels for evaluating predictions.

    These are gold labels if any clip has one. Otherwise they are the given labels of the training clips: predictions
    for these are out of fold, but the labels may be wrong, and the refinement used them.
    """

    def __init__(self, clips: Sequence[Clip], labels: Sequence[str], config: EvaluateConfig) -> None:
        self.by = "gold" if any(clip.gold_label for clip in clips) else "given"
        self.clips = [clip for clip in clips if self.truth(clip)]
        self.labels = tuple(labels)
        self._config = config

    def truth(self, clip: Clip) -> str:
        """Return the label to evaluate a clip on; empty if there is none."""
        return clip.gold_label if self.by == "gold" else clip.given_label

    def scores(self, predicted: Mapping[str, str], split: Split | None = None) -> dict[str, Any]:
        """Score one model over all evaluated clips, or over those of one split."""
        chosen = [clip for clip in self.clips if split is None or clip.split is split]
        return scores([self.truth(clip) for clip in chosen], [predicted[clip.clip_id] for clip in chosen], self.labels)

    def difference(self, first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, float]:
        """Return the difference in weighted F1 between two models, with a paired bootstrap interval (95%).

        Whole groups are drawn if the group of each clip is known.
        """
        truth = np.array([self.truth(clip) for clip in self.clips])
        difference, low, high = bootstrap_difference(
            np.array([first[clip.clip_id] for clip in self.clips]),
            np.array([second[clip.clip_id] for clip in self.clips]),
            truth,
            rng=np.random.default_rng(self._config.seed),
            groups=groups_to_draw([clip.group for clip in self.clips]),
            draws=self._config.draws,
        )
        return {"difference": round(difference, 6), "low": round(low, 6), "high": round(high, 6)}

    def interval(self, predicted: Mapping[str, str]) -> tuple[float, float]:
        """Return the bounds of the 95% bootstrap interval of the weighted F1 of one model, drawn as in `difference`."""
        return bootstrap_f1(
            np.array([predicted[clip.clip_id] for clip in self.clips]),
            np.array([self.truth(clip) for clip in self.clips]),
            rng=np.random.default_rng(self._config.seed),
            groups=groups_to_draw([clip.group for clip in self.clips]),
            draws=self._config.draws,
        )


def groups_to_draw(groups: Sequence[str]) -> NDArray[np.str_] | None:
    """Return the groups, (n,), for a bootstrap over groups; None if some are unknown or there is only one."""
    return np.array(groups) if all(groups) and len(set(groups)) > 1 else None


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
    for table in (*given.values(), refined):
        if table.clip_ids != tuple(clip.clip_id for clip in clips) or table.label_names != labels:
            raise MissingInput(
                "predictions and corpus have different clips or labels",
                "train and predict again",
                command="ecmf-pipe train && ecmf-pipe predict",
            )
    fusion = {"given": given["fusion"].by_clip(), "refined": refined.by_clip()}
    single = {name: table.by_clip() for name, table in given.items() if name != "fusion"}
    headline = evaluator.scores(fusion["refined"])
    modalities = {name: _with_answered(evaluator, given[name], predicted) for name, predicted in single.items()}
    truth = [evaluator.truth(clip) for clip in evaluator.clips]
    counts = confusion(truth, [fusion["refined"][clip.clip_id] for clip in evaluator.clips], labels)
    human_label_by_clip: dict[str, str] = {
        clip.clip_id: labels[label] for clip, label in zip(clips, human_labels.tolist(), strict=True) if label >= 0
    }
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
            for split in Split
            if any(clip.split is split for clip in evaluator.clips)
        },
        "fusion_over_best_modality": _over_best(evaluator, fusion["given"], single, modalities),
        "refined_over_given": evaluator.difference(fusion["refined"], fusion["given"]),
        "labels": label_quality(clips, decisions, human_label_by_clip) if evaluator.by == "gold" else None,
        "confusion": {"labels": list(labels), "counts": counts.tolist()},
        "no_modality": sum(flag == NO_MODALITY for flag in refined.flags),
    }


def _with_answered(evaluator: Evaluator, table: PredictionTable, predicted: Mapping[str, str]) -> dict[str, Any]:
    """Return the scores of a model, and how many of the evaluated clips it could predict (``answered``)."""
    is_flagged = dict(zip(table.clip_ids, map(bool, table.flags), strict=True))
    answered = sum(not is_flagged[clip.clip_id] for clip in evaluator.clips)
    return {**evaluator.scores(predicted), "answered": answered}


def _over_best(
    evaluator: Evaluator,
    fusion: Mapping[str, str],
    alone: Mapping[str, Mapping[str, str]],
    modalities: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Compare the fusion with the best modality, which is selected on the same clips; this favours the modality."""
    if len(alone) < 2:
        return None
    best = max(alone, key=lambda name: modalities[name]["weighted_f1"])
    return {"best": best, "model": "given", **evaluator.difference(fusion, alone[best])}


def label_quality(
    clips: Sequence[Clip], decisions: Sequence[Decision], human_labels: Mapping[str, str]
) -> dict[str, Any]:
    """Measure the training labels before and after refinement, over clips with a gold label.

    Args:
        clips: The manifest.
        decisions: Decisions of the refinement.
        human_labels: Human labels by clip id. ``fixed_by_verdicts`` etc. count how much of ``fixed``, ``broken`` and
            ``pseudo`` comes from human labels and not from votes.
    """
    gold = {clip.clip_id: clip.gold_label for clip in clips if clip.gold_label}
    with_gold = [decision for decision in decisions if decision.clip_id in gold]
    labelled = [decision for decision in with_gold if decision.given_label]
    used = [decision for decision in labelled if decision.weight > 0]
    pseudo = [decision for decision in with_gold if not decision.given_label and decision.weight > 0]

    def correct(decision: Decision) -> bool:
        return decision.refined_label == gold[decision.clip_id]

    def was_correct(decision: Decision) -> bool:
        return decision.given_label == gold[decision.clip_id]

    def by_person(decision: Decision) -> bool:
        return human_labels.get(decision.clip_id) == decision.refined_label

    fixed = [decision for decision in used if correct(decision) and not was_correct(decision)]
    broken = [decision for decision in used if was_correct(decision) and not correct(decision)]
    unused = [decision for decision in labelled if decision.weight == 0]
    return {
        "given": {"clips": len(labelled), "accuracy": _share(was_correct(decision) for decision in labelled)},
        "refined": {"clips": len(used), "accuracy": _share(correct(decision) for decision in used)},
        "fixed": len(fixed),
        "fixed_by_verdicts": sum(map(by_person, fixed)),
        "broken": len(broken),
        "broken_by_verdicts": sum(map(by_person, broken)),
        "dropped_wrong": sum(not was_correct(decision) for decision in unused),
        "dropped_right": sum(was_correct(decision) for decision in unused),
        "pseudo": {"clips": len(pseudo), "accuracy": _share(correct(decision) for decision in pseudo)},
        "pseudo_by_verdicts": sum(map(by_person, pseudo)),
    }


def _share(outcomes: Any) -> float | None:
    listed = list(outcomes)
    return round(sum(listed) / len(listed), 6) if listed else None


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
