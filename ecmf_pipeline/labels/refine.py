"""What becomes of each clip's label, and why in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.clips import Clip, ClipId, Split, labels_of
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.evidence import ABSTAIN
from ecmf_pipeline.labels.label_model import Assessment

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Verdict(StrEnum):
    """What is done with a clip's label."""

    KEEP = "keep"
    """The given label stands."""
    RELABEL = "relabel"
    """Another label replaces the given one."""
    DROP = "drop"
    """The given label is most likely wrong and it is unclear what is right: not trained on."""
    PSEUDO = "pseudo"
    """A clip without a given label gets one."""
    REVIEW = "review"
    """A human should look. A given label stands meanwhile, by its low weight; a clip without one is not trained on."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one clip's label.

    Attributes:
        clip_id: The clip.
        split: Its split.
        old_label: The given label, "" where there is none.
        new_label: The label to train on, "" where the clip is not trained on.
        decision: What was decided.
        weight: The clip's weight in training, 0 where it is not trained on; a class's labelled clips average one.
        confidence: Probability that ``new_label`` is right; without one, that of the label model's first choice.
        agreement: Share of the voting sources whose vote is the label model's first choice; NaN where none votes.
        reason: Why, in words.
    """

    clip_id: ClipId
    split: Split
    old_label: str
    new_label: str
    decision: Verdict
    weight: float
    confidence: float
    agreement: float
    reason: str


def decide(
    combined: Assessment,
    clips: Sequence[Clip],
    labels: Sequence[str],
    config: RefineConfig,
    *,
    families: Mapping[str, str],
) -> list[Decision]:
    """Decide about every clip.

    Args:
        combined: What the sources say, of the same clips in the same order.
        clips: The clips; their gold labels are not read.
        labels: The K label names.
        config: The thresholds.
        families: The family of each source: sources that see the same features (all voters of a modality) are one
            family and count once.

    Returns:
        One decision a clip, in the same order.

    Raises:
        ValueError: When the clips are not those that were voted on, or a source has no family.
    """
    if len(clips) != len(combined.labels) or combined.probs.shape[1] != len(labels):
        raise ValueError(f"{len(clips)} clips, {len(labels)} labels but votes of {combined.probs.shape}")
    if missing := set(combined.votes) - set(families):
        raise ValueError(f"no family for {sorted(missing)}")
    given = np.array(labels_of(clips, labels), np.int64)
    backing = _families_behind(combined, families)
    verdicts, new = _labelled(combined, given, backing, config)
    weights = _weights(combined, given, new, config)
    over_quota = _add_pseudo(combined, clips, given, backing, config, verdicts, new, weights)
    shown = np.where(new >= 0, new, combined.labels)
    confidence = combined.posterior[np.arange(len(clips)), shown]
    casts = np.stack(list(combined.votes.values()), axis=1)  # (n, S)
    voting = (casts != ABSTAIN).sum(axis=1)
    agreeing = (casts == combined.labels[:, None]).sum(axis=1)
    return [
        Decision(
            clip_id=clip.clip_id,
            split=clip.split,
            old_label=clip.given_label,
            new_label=labels[new[i]] if new[i] >= 0 else "",
            decision=verdicts[i],
            weight=float(weights[i]),
            confidence=float(confidence[i]),
            agreement=float(combined.agreement[i]),
            reason=_reason(combined, labels, i, given[i], agreeing[i], voting[i], backing[i], verdicts[i])
            + (f"; {labels[combined.labels[i]]} has its quota of pseudo-labels" if over_quota[i] else ""),
        )
        for i, clip in enumerate(clips)
    ]


def _families_behind(combined: Assessment, families: Mapping[str, str]) -> Ints:
    """How many families favour the first choice, (n,): those of whose voting sources more than half vote for it."""
    behind = np.zeros(len(combined.labels), np.int64)
    for family in sorted({families[name] for name in combined.votes}):
        casts = np.stack([cast for name, cast in combined.votes.items() if families[name] == family], axis=1)
        behind += 2 * (casts == combined.labels[:, None]).sum(axis=1) > (casts != ABSTAIN).sum(axis=1)
    return behind


def _labelled(combined: Assessment, given: Ints, backing: Ints, config: RefineConfig) -> tuple[list[Verdict], Ints]:
    """Verdicts on given labels, and the labels that result, -1 for none; unlabeled clips stand at review."""
    rows = np.arange(len(given))
    belief = combined.posterior[rows, given]
    labelled = given >= 0
    voted = ~np.isnan(combined.agreement)  # without a vote there is nothing to doubt a given label by
    relabel = (
        labelled
        & voted
        & (combined.labels != given)
        & (combined.confidence >= config.relabel_above)
        & (backing >= config.relabel_families)
    )
    drop = labelled & voted & ~relabel & (belief < config.drop_below)
    review = ~labelled | (voted & ~relabel & ~drop & (belief < config.review_below))
    codes = np.select([relabel, drop, review], [1, 2, 3], default=0)
    by_code = (Verdict.KEEP, Verdict.RELABEL, Verdict.DROP, Verdict.REVIEW)
    new = np.where(relabel, combined.labels, np.where(drop, -1, given))
    return [by_code[code] for code in codes.tolist()], new


def _weights(combined: Assessment, given: Ints, new: Ints, config: RefineConfig) -> Floats:
    """The posterior of each labelled clip's label, scaled so that each class averages one (or what the limit allows).

    Unscaled, the weights favour the majority class, whose labels are the easiest to believe.
    """
    trained = np.flatnonzero((given >= 0) & (new >= 0))
    weights = np.zeros(len(given))
    weights[trained] = combined.posterior[trained, new[trained]]
    classes = combined.probs.shape[1]
    counts = np.bincount(new[trained], minlength=classes)
    totals = np.bincount(new[trained], weights=weights[trained], minlength=classes)
    scale = np.minimum(np.divide(counts, totals, out=np.ones(classes), where=totals > 0), config.weight_limit)
    weights[trained] *= scale[new[trained]]
    return weights


def _add_pseudo(
    combined: Assessment,
    clips: Sequence[Clip],
    given: Ints,
    backing: Ints,
    config: RefineConfig,
    verdicts: list[Verdict],
    new: Ints,
    weights: Floats,
) -> NDArray[np.bool_]:
    """Enter pseudo-labels, the surest first up to each class's quota; tells which clips the quota kept out, (n,)."""
    allowed = np.array([clip.split in config.pseudo_splits for clip in clips], dtype=bool)
    sure = (given < 0) & allowed & (combined.confidence >= config.pseudo_above) & (backing >= config.pseudo_families)
    trained = np.bincount(new[(given >= 0) & (new >= 0)], minlength=combined.probs.shape[1])
    over_quota = np.zeros(len(clips), dtype=bool)
    for label, count in enumerate(trained.tolist()):
        eligible = np.flatnonzero(sure & (combined.labels == label)).tolist()
        eligible.sort(key=lambda i: (-combined.confidence[i], clips[i].clip_id))
        quota = int(config.pseudo_quota * count)
        over_quota[eligible[quota:]] = True
        for i in eligible[:quota]:
            verdicts[i] = Verdict.PSEUDO
            new[i] = label
            weights[i] = config.pseudo_weight * combined.confidence[i]
    return over_quota


def _reason(
    combined: Assessment,
    labels: Sequence[str],
    row: int,
    given: int,
    agreeing: int,
    voting: int,
    families: int,
    verdict: Verdict,
) -> str:
    first = labels[combined.labels[row]]
    if voting == 0:
        return "no source votes" + (f"; given label {labels[given]} stands" if given >= 0 else "")
    said = (
        f"{agreeing} of {voting} sources ({families} {'family' if families == 1 else 'families'}) "
        f"say {first} (posterior {combined.confidence[row]:.2f})"
    )
    if given < 0 or first == labels[given]:
        return said + (", too unsure to use" if verdict is Verdict.REVIEW else "")
    return f"{said}; given label {labels[given]} has {combined.posterior[row, given]:.2f}"
