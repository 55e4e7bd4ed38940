"""Choose the clips that get a card on the page: at most `MAX_CARDS`, and all that a reader looks for first."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.labels.refine import LabelAction
from ecmf_pipeline.report.inputs import ReportInput, column, predicted_labels

MAX_CARDS = 2000

CHANGED, DROPPED, REVIEWED, MISJUDGED, OTHER = "changed", "dropped", "reviewed", "misjudged", "other"
"""Kinds of clips, the first ones first."""
MOST_OUTLIERS = 200


def choose_clips(report: ReportInput, count: int = MAX_CARDS) -> list[str]:
    """Return at most ``count`` clip ids, those of the first kinds first.

    If not all clips of the first kinds fit, each kind and label gets an equal number. Near-duplicates and outliers
    follow. All other places go to each label in equal numbers. The choice is random, but depends only on the clip ids.

    Returns:
        The clips that the thumbnails and cards are made for, in this order.
    """
    actions = zip(column(report.refined, "decision"), column(report.refined, "basis"), strict=True)
    decisions = dict(zip(column(report.refined, "clip_id"), actions, strict=True))
    predicted, truth = predicted_labels(report.scored), true_labels(report)
    ids, given, gold = (column(report.clips, name) for name in ("clip_id", "given_label", "gold_label"))
    first: dict[tuple[str, str], list[str]] = defaultdict(list)
    rest: dict[tuple[str, str], list[str]] = defaultdict(list)
    for clip_id, given_label, gold_label in zip(ids, given, gold, strict=True):
        action, basis = decisions.get(clip_id, ("", ""))
        kind = kind_of(action, basis, predicted.get(clip_id, ""), truth.get(clip_id, ""))
        (rest if kind == OTHER else first)[kind, given_label or gold_label].append(str(clip_id))
    chosen = _in_turn(first, count)
    if report.neighbours is not None:
        pairs = (name for first_id, second_id, _ in report.neighbours.duplicates for name in (first_id, second_id))
        outliers = (name for name, _ in report.neighbours.outliers[:MOST_OUTLIERS])
        known = set(chosen)
        chosen += [name for name in dict.fromkeys((*pairs, *outliers)) if name not in known][: count - len(chosen)]
    known = set(chosen)
    rest = {key: [name for name in names if name not in known] for key, names in rest.items()}
    return chosen + _in_turn(rest, count - len(chosen))


def kind_of(action: str, basis: str, predicted: str, truth: str) -> str:
    """Return the first kind that a clip belongs to, by the decision on its label, the basis of it, and both labels."""
    if action == LabelAction.RELABEL:
        return CHANGED
    if action == LabelAction.DROP:
        return DROPPED
    if action == LabelAction.REVIEW or basis == Basis.VERDICTS:
        return REVIEWED
    return MISJUDGED if truth and predicted and predicted != truth else OTHER


def true_labels(report: ReportInput) -> dict[str, str]:
    """Return the label that each evaluated clip is judged by: gold labels if any clip has one, else given labels."""
    for name in ("gold_label", "given_label"):
        pairs = zip(column(report.clips, "clip_id"), column(report.clips, name), strict=True)
        if labels := {str(clip_id): label for clip_id, label in pairs if label}:
            return labels
    return {}


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
