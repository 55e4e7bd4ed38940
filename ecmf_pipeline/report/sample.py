"""Choose the clips that get a card on the page: at most `MAX_CARDS`, and all that a reader looks for first."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.labels.refine import Decision, LabelAction
from ecmf_pipeline.report.inputs import PredictedClip, ReportInput

MAX_CARDS = 2000

CHANGED, DROPPED, REVIEWED, MISJUDGED, OTHER = "changed", "dropped", "reviewed", "misjudged", "other"
"""Kinds of clips, the first ones first."""


def choose_clips(report: ReportInput, count: int = MAX_CARDS) -> list[str]:
    """Return at most ``count`` clip ids, those of the first kinds first.

    If not all clips of the first kinds fit, each kind and label gets an equal number. All other places go to each label
    in equal numbers. The choice is random, but depends only on the clip ids.

    Returns:
        The clips that the thumbnails and cards are made for, in this order.
    """
    decisions = {decision.clip_id: decision for decision in report.refined}
    predictions = {prediction.clip_id: prediction for prediction in report.scored}
    truth = true_labels(report)
    first: dict[tuple[str, str], list[str]] = defaultdict(list)
    rest: dict[tuple[str, str], list[str]] = defaultdict(list)
    for clip in report.clips:
        kind = kind_of(decisions.get(clip.clip_id), predictions.get(clip.clip_id), truth.get(clip.clip_id, ""))
        (rest if kind == OTHER else first)[kind, clip.given_label or clip.gold_label].append(str(clip.clip_id))
    chosen = _in_turn(first, count)
    return chosen + _in_turn(rest, count - len(chosen))


def kind_of(decision: Decision | None, prediction: PredictedClip | None, truth: str) -> str:
    """Return the first kind that a clip belongs to."""
    if decision is not None:
        if decision.decision is LabelAction.RELABEL:
            return CHANGED
        if decision.decision is LabelAction.DROP:
            return DROPPED
        if decision.decision is LabelAction.REVIEW or decision.basis is Basis.VERDICTS:
            return REVIEWED
    if truth and prediction is not None and not prediction.flag and prediction.label != truth:
        return MISJUDGED
    return OTHER


def true_labels(report: ReportInput) -> dict[str, str]:
    """Return the label that each evaluated clip is judged by: gold labels if any clip has one, else given labels."""
    gold = {str(clip.clip_id): clip.gold_label for clip in report.clips if clip.gold_label}
    return gold or {str(clip.clip_id): clip.given_label for clip in report.clips if clip.given_label}


def _in_turn(groups: Mapping[tuple[str, str], Sequence[str]], count: int) -> list[str]:
    """Take one clip of each group in turn, in an order that depends on the clip ids only."""
    queues = [sorted(groups[key], key=_order) for key in sorted(groups)]
    chosen: list[str] = []
    for rank in range(max(map(len, queues), default=0)):
        chosen += [queue[rank] for queue in queues if rank < len(queue)]
        if len(chosen) >= count:
            break
    return chosen[: max(count, 0)]


def _order(clip_id: str) -> bytes:
    return hashlib.sha256(clip_id.encode("utf-8", "surrogatepass")).digest()
