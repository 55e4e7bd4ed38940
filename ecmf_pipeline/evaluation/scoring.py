"""Scores of predictions by labels that they were not made from, and of labels before and after the refinement."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints, bootstrap_difference, confusion, expected_calibration_error, scores
from ecmf_pipeline.core.clips import Clip, Split
from ecmf_pipeline.core.console import format_part
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.core.predictions import NO_MODALITY, PredictionTable
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.labels.refine import Decision
from ecmf_pipeline.labels.voters import family_of

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)

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
        difference, low, high = bootstrap_difference(
            np.array([first[clip.clip_id] for clip in self.clips]),
            np.array([second[clip.clip_id] for clip in self.clips]),
            truth,
            rng=np.random.default_rng(self._config.seed),
            groups=groups_to_draw([clip.group for clip in self.clips]),
            draws=self._config.draws,
        )
        return {"difference": round(difference, 6), "low": round(low, 6), "high": round(high, 6)}


def groups_to_draw(groups: Sequence[str]) -> NDArray[np.str_] | None:
    """The groups that a bootstrap draws whole, (n,); None where some clip's is unknown, or all are one."""
    return np.array(groups) if all(groups) and len(set(groups)) > 1 else None


def evaluate(
    judge: Judge,
    clips: Sequence[Clip],
    given: Mapping[str, PredictionTable],
    refined: PredictionTable,
    decisions: Sequence[Decision],
    verdicts: Ints,
) -> dict[str, Any]:
    """Score everything.

    Args:
        judge: What the predictions are judged by.
        clips: The manifest.
        given: Predictions of the models trained on given labels: ``fusion``, and each modality alone by its name.
        refined: Predictions of the fusion trained on refined labels.
        decisions: What the refinement decided.
        verdicts: Labels that a person vouches for, (n,), -1 where unknown.

    Returns:
        What ``data/metrics/evaluate.json`` holds. ``weighted_f1`` is the fusion's, trained on refined labels.
    """
    labels = judge.labels
    for table in (*given.values(), refined):
        if table.clip_ids != tuple(clip.clip_id for clip in clips) or table.label_names != labels:
            raise MissingInput("the predictions are of other clips or labels than the corpus has now", _AGAIN)
    fusion = {"given": given["fusion"].by_clip(), "refined": refined.by_clip()}
    alone = {name: table.by_clip() for name, table in given.items() if name != "fusion"}
    headline = judge.scores(fusion["refined"])
    modalities = {name: judge.scores(predicted) for name, predicted in alone.items()}
    truth = [judge.truth(clip) for clip in judge.clips]
    counts = confusion(truth, [fusion["refined"][clip.clip_id] for clip in judge.clips], labels)
    vouched: dict[str, str] = {
        clip.clip_id: labels[one] for clip, one in zip(clips, verdicts.tolist(), strict=True) if one >= 0
    }
    return {
        "weighted_f1": headline["weighted_f1"],
        "accuracy": headline["accuracy"],
        "clips": headline["clips"],
        "judged_by": judge.by,
        "model": "refined",
        "fusion": {name: judge.scores(predicted) for name, predicted in fusion.items()},
        "modalities": modalities,
        "by_split": {
            split.value: {name: judge.scores(predicted, split) for name, predicted in fusion.items()}
            for split in Split
            if any(clip.split is split for clip in judge.clips)
        },
        "fusion_over_best_modality": _over_best(judge, fusion["given"], alone, modalities),
        "refined_over_given": judge.difference(fusion["refined"], fusion["given"]),
        "labels": label_quality(clips, decisions, vouched) if judge.by == "gold" else None,
        "confusion": {"labels": list(labels), "counts": counts.tolist()},
        "no_modality": sum(flag == NO_MODALITY for flag in refined.flags),
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
    labelled = [decision for decision in known if decision.given_label]
    used = [decision for decision in labelled if decision.weight > 0]
    pseudo = [decision for decision in known if not decision.given_label and decision.weight > 0]

    def right(decision: Decision) -> bool:
        return decision.refined_label == gold[decision.clip_id]

    def was_right(decision: Decision) -> bool:
        return decision.given_label == gold[decision.clip_id]

    def by_verdict(decision: Decision) -> bool:
        return verdicts.get(decision.clip_id) == decision.refined_label

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


def reliability(posterior: Floats, truth: Ints) -> dict[str, Any]:
    """Reliability curve in ten bins, expected calibration error, and accuracy of the surest clips.

    Args:
        posterior: Probabilities of the label model, (n, K).
        truth: True labels, (n,), -1 where unknown: such clips are left out.
    """
    known = truth >= 0
    confidence, right = posterior[known].max(axis=1), posterior[known].argmax(axis=1) == truth[known]
    bins = np.clip((confidence * 10).astype(int), 0, 9)
    curve = [
        {
            "clips": int((bins == one).sum()),
            "confidence": round(float(confidence[bins == one].mean()), 6),
            "accuracy": round(float(right[bins == one].mean()), 6),
        }
        for one in np.unique(bins)
    ]
    surest = right[np.argsort(-confidence, kind="stable")]
    counts = [max(1, round(share * len(right))) for share in SHARES] if len(right) else []
    return {
        "clips": int(known.sum()),
        "accuracy": round(float(right.mean()), 6) if len(right) else None,
        "ece": round(expected_calibration_error(confidence, right), 6) if len(right) else None,
        "curve": curve,
        "coverage": [
            {"share": share, "accuracy": round(float(surest[:count].mean()), 6)}
            for share, count in zip(SHARES, counts, strict=False)
        ],
    }


def leave_one_out(
    votes: Mapping[str, Floats], truth: Ints, posterior_of: Callable[[Mapping[str, Floats]], Floats]
) -> dict[str, dict[str, Any]]:
    """Accuracy and calibration error of the label model without each family of sources.

    Args:
        votes: Probabilities by source, (n, K).
        truth: True labels, (n,), -1 where unknown.
        posterior_of: The label model: from votes to probabilities, (n, K).

    Returns:
        By family, the scores without it; with one family alone there is nothing to leave out.
    """
    families = sorted(set(map(family_of, votes)))
    if len(families) < 2:
        return {}
    found = {}
    for family in families:
        rest = {source: probs for source, probs in votes.items() if family_of(source) != family}
        scores = reliability(posterior_of(rest), truth)
        found[family] = {"accuracy": scores["accuracy"], "ece": scores["ece"]}
    return found


def write_plots(folder: Path, judge: Judge, predictions: PredictionTable, results: Mapping[str, Any]) -> None:
    """Write what DVC plots: ``confusion.csv``, one row a judged clip, and ``models.csv``, the weighted F1 of each."""
    predicted = predictions.by_clip()
    pairs = [[judge.truth(clip), predicted[clip.clip_id]] for clip in judge.clips]
    _write_csv(folder / "confusion.csv", [["actual", "predicted"], *pairs])
    models = {name: scores["weighted_f1"] for name, scores in results["modalities"].items()}
    models |= {f"fusion ({name} labels)": scores["weighted_f1"] for name, scores in results["fusion"].items()}
    _write_csv(folder / "models.csv", [["model", "weighted_f1"], *([name, str(f1)] for name, f1 in models.items())])


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(path, text.getvalue())


def summary(results: Mapping[str, Any]) -> str:
    """What `evaluate` measures, in a few lines."""
    lines = [
        f"evaluate: weighted F1 {results['weighted_f1']:.4f}, accuracy {results['accuracy']:.4f} over "
        f"{results['clips']} clips, judged by {results['judged_by']} labels (fusion on {results['model']} labels)"
    ]
    if over := results["fusion_over_best_modality"]:
        lines.append(f"  fusion over {over['best']} alone: {in_words(over)}")
    if over := results["refined_over_given"]:
        caveat = "" if results["judged_by"] == "gold" else "; no measure: the refinement was made from these labels"
        lines.append(f"  refined over given labels: {in_words(over)}{caveat}")
    if (labels := results["labels"]) and labels["given"]["clips"]:  # gold may be known of candidates alone
        lines.append(
            f"  training labels: {labels['given']['accuracy']} right as given, {labels['refined']['accuracy']} refined "
            f"({_with_verdicts(labels, 'fixed')}; {_with_verdicts(labels, 'broken')}; {labels['dropped_wrong']} wrong "
            f"and {labels['dropped_right']} right ones left out)"
        )
    lines.append(f"  {results['controls']['sentence']}")
    if fusion := results["controls"].get("fusion"):
        lines.append(f"  trained with the fusion model, {fusion['sentence']}")
    if reason := results["controls"].get("no_fusion"):
        lines.append(f"  {reason}")
    if believed := results["label_model"]:
        lines.append(
            f"  label model: {believed['accuracy']} right over {believed['clips']} clips, calibration error "
            f"{believed['ece']}"
        )
    if ways := results["label_methods"]["methods"]:
        best = max(ways, key=lambda name: ways[name]["accuracy"])
        lines.append(
            f"  of {len(ways)} ways to combine the votes the best on known labels is: {best} ({ways[best]['accuracy']})"
        )
    return "\n".join(lines)


def _with_verdicts(labels: Mapping[str, Any], what: str) -> str:
    """How many labels were fixed or broken, and how many of them by a person."""
    share = format_part(labels[f"{what}_by_verdicts"], labels[what], "by verdicts")
    return f"{labels[what]} {what}" + (f", {share}" if share else "")


def in_words(over: Mapping[str, float]) -> str:
    """A difference with its interval."""
    return f"{over['difference']:+.4f} weighted F1 (95% interval {over['low']:+.4f} to {over['high']:+.4f})"
