"""What `evaluate` measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecmf_pipeline.clips import Clip, Split
from ecmf_pipeline.errors import MissingInput
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.labels.refine import Decision
from ecmf_pipeline.metrics import bootstrap_difference, confusion, scores
from ecmf_pipeline.predictions import NO_MODALITY, PredictionTable

_AGAIN = "run `ecmf-pipe train` and `ecmf-pipe predict` again (or `dvc repro`)"


class Judge:
    """The labels that predictions are judged by.

    Gold labels where any clip has one. Otherwise the given labels of the training clips: their predictions are out of
    fold, but the labels may be wrong, and the refinement has seen them.
    """

    def __init__(self, clips: Sequence[Clip], labels: Sequence[str], config: EvaluateConfig) -> None:
        self.by = "gold" if any(clip.gold_label for clip in clips) else "given"
        self.clips = [clip for clip in clips if self.truth(clip)]
        self.labels = tuple(labels)
        self._config = config

    def truth(self, clip: Clip) -> str:
        """The label a clip is judged by; empty when it cannot be judged."""
        return clip.gold_label if self.by == "gold" else clip.given_label

    def scores(self, predicted: Mapping[str, str], split: Split | None = None) -> dict[str, Any]:
        """Scores of one model over all judged clips, or those of one split."""
        chosen = [clip for clip in self.clips if split is None or clip.split is split]
        return scores([self.truth(clip) for clip in chosen], [predicted[clip.clip_id] for clip in chosen], self.labels)

    def difference(self, first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, float]:
        """Weighted F1 of one model minus another's on the same clips, with its paired bootstrap interval (95%).

        Whole groups are drawn where every clip's group is known.
        """
        truth = np.array([self.truth(clip) for clip in self.clips])
        groups = np.array([clip.group for clip in self.clips])
        difference, low, high = bootstrap_difference(
            np.array([first[clip.clip_id] for clip in self.clips]),
            np.array([second[clip.clip_id] for clip in self.clips]),
            truth,
            rng=np.random.default_rng(self._config.seed),
            groups=groups if all(groups) and len(set(groups)) > 1 else None,
            draws=self._config.draws,
        )
        return {"difference": round(difference, 6), "low": round(low, 6), "high": round(high, 6)}


def evaluate(
    clips: Sequence[Clip],
    labels: Sequence[str],
    given: Mapping[str, PredictionTable],
    refined: PredictionTable | None,
    decisions: Sequence[Decision] | None,
    config: EvaluateConfig,
    verdicts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Score everything.

    Args:
        clips: The manifest.
        labels: The labels, in order.
        given: Predictions of the models trained on given labels: ``fusion``, and each modality alone by its name.
        refined: Predictions of the fusion trained on refined labels.
        decisions: What the refinement decided.
        config: How intervals are drawn.
        verdicts: Labels that a person vouches for, by clip id; None: there are none.

    Returns:
        What ``data/metrics/evaluate.json`` holds. ``weighted_f1`` is the fusion's, trained on refined labels if it was.
    """
    judge = Judge(clips, labels, config)
    for table in (*given.values(), *([refined] if refined else [])):
        if table.clip_ids != tuple(clip.clip_id for clip in clips) or table.label_names != tuple(labels):
            raise MissingInput("the predictions are of other clips or labels than the corpus has now", _AGAIN)
    fusion = {"given": given["fusion"].by_clip()} | ({"refined": refined.by_clip()} if refined else {})
    alone = {name: table.by_clip() for name, table in given.items() if name != "fusion"}
    model = "refined" if refined else "given"
    headline = judge.scores(fusion[model])
    modalities = {name: judge.scores(predicted) for name, predicted in alone.items()}
    truth = [judge.truth(clip) for clip in judge.clips]
    counts = confusion(truth, [fusion[model][clip.clip_id] for clip in judge.clips], labels)
    return {
        "weighted_f1": headline["weighted_f1"],
        "accuracy": headline["accuracy"],
        "clips": headline["clips"],
        "judged_by": judge.by,
        "model": model,
        "fusion": {name: judge.scores(predicted) for name, predicted in fusion.items()},
        "modalities": modalities,
        "by_split": {
            split.value: {name: judge.scores(predicted, split) for name, predicted in fusion.items()}
            for split in Split
            if any(clip.split is split for clip in judge.clips)
        },
        "fusion_over_best_modality": _over_best(judge, fusion["given"], alone, modalities),
        "refined_over_given": judge.difference(fusion["refined"], fusion["given"]) if refined else None,
        "labels": label_quality(clips, decisions, verdicts or {}) if decisions and judge.by == "gold" else None,
        "confusion": {"labels": list(labels), "counts": counts.tolist()},
        "no_modality": sum(flag == NO_MODALITY for flag in (refined or given["fusion"]).flags),
    }


def _over_best(
    judge: Judge, fusion: Mapping[str, str], alone: Mapping[str, Mapping[str, str]], modalities: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The fusion against the modality that does best on these very clips, which favours the modality."""
    if len(alone) < 2:
        return None
    best = max(alone, key=lambda name: modalities[name]["weighted_f1"])
    return {"best": best, "model": "given", **judge.difference(fusion, alone[best])}


def label_quality(clips: Sequence[Clip], decisions: Sequence[Decision], verdicts: Mapping[str, str]) -> dict[str, Any]:
    """How right the training labels are before and after the refinement, over clips whose gold label is known.

    Args:
        clips: The manifest.
        decisions: What the refinement decided.
        verdicts: Labels that a person vouches for, by clip id: ``fixed_by_verdicts`` and its like say how much of
            ``fixed``, ``broken`` and ``pseudo`` is the person's work, not that of the votes.
    """
    gold = {clip.clip_id: clip.gold_label for clip in clips if clip.gold_label}
    known = [decision for decision in decisions if decision.clip_id in gold]
    labelled = [decision for decision in known if decision.old_label]
    used = [decision for decision in labelled if decision.weight > 0]
    pseudo = [decision for decision in known if not decision.old_label and decision.weight > 0]

    def right(decision: Decision) -> bool:
        return decision.new_label == gold[decision.clip_id]

    def was_right(decision: Decision) -> bool:
        return decision.old_label == gold[decision.clip_id]

    def by_verdict(decision: Decision) -> bool:
        return verdicts.get(decision.clip_id) == decision.new_label

    fixed = [decision for decision in used if right(decision) and not was_right(decision)]
    broken = [decision for decision in used if was_right(decision) and not right(decision)]
    unused = [decision for decision in labelled if decision.weight == 0]
    return {
        "given": {"clips": len(labelled), "accuracy": _share(was_right(decision) for decision in labelled)},
        "refined": {"clips": len(used), "accuracy": _share(right(decision) for decision in used)},
        "fixed": len(fixed),
        "fixed_by_verdicts": sum(map(by_verdict, fixed)),
        "broken": len(broken),
        "broken_by_verdicts": sum(map(by_verdict, broken)),
        "dropped_wrong": sum(not was_right(decision) for decision in unused),
        "dropped_right": sum(was_right(decision) for decision in unused),
        "pseudo": {"clips": len(pseudo), "accuracy": _share(right(decision) for decision in pseudo)},
        "pseudo_by_verdicts": sum(map(by_verdict, pseudo)),
    }


def _share(outcomes: Any) -> float | None:
    listed = list(outcomes)
    return round(sum(listed) / len(listed), 6) if listed else None
