"""Decide on the label of each clip: keep, down-weight, replace, drop, add or review it.

A given label is replaced, and an unlabelled clip gets a pseudo-label, only above a probability at which human labels
show that this is correct often enough (`find_thresholds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from ecmf_pipeline.core.arrays import Bools, Floats, Ints
from ecmf_pipeline.core.clips import Clip, ClipId, Split, label_indices
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.label_model import Assessment
from ecmf_pipeline.labels.votes import ABSTAIN

NEVER = float("inf")
"""Threshold that no probability reaches."""

CONFIDENCE_LEVEL = 0.9
"""One-sided confidence level of the test that the precision above a threshold reaches the target.

Each threshold is tested separately and the lowest one that passes is used, so the confidence of the selected threshold
is slightly lower.
"""


class LabelAction(StrEnum):
    """Action taken on the label of a clip."""

    KEEP = "keep"
    """The given label is kept."""
    DOWN_WEIGHT = "down_weight"
    """The given label is kept with a lower weight."""
    RELABEL = "relabel"
    """Another label replaces the given one."""
    DROP = "drop"
    """The clip is excluded from training: its given label is probably wrong and no other label is certain enough."""
    PSEUDO = "pseudo"
    """A clip without a given label gets one."""
    REVIEW = "review"
    """A person should check the clip. A given label is kept with a low weight; a clip without one is not trained on."""
    LEAVE = "leave"
    """A clip without a given label stays unlabelled."""


@dataclass(frozen=True, slots=True)
class Vote:
    """Vote of one source on one clip.

    Attributes:
        source: Name of the source, such as ``text/linear``.
        label: Most probable label; "" for an abstention.
        probability: Probability of this label; None for an abstention.
    """

    source: str
    label: str
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision on the label of one clip.

    Attributes:
        clip_id: The clip.
        split: Its split.
        given_label: The given label; "" if there is none.
        refined_label: The label to train on; "" if the clip is not trained on.
        decision: The action taken.
        weight: Training weight, 0 if the clip is not trained on; labelled clips have a mean weight of one.
        confidence: Probability that ``refined_label`` is correct; if it is empty, probability of the label model's
            first choice.
        agreement: Share of the voting sources that vote for the label model's first choice; NaN if none votes.
        reason: Explanation of the decision.
        votes: One vote per source, if loaded; see `read_decisions`.
    """

    clip_id: ClipId
    split: Split
    given_label: str
    refined_label: str
    decision: LabelAction
    weight: float
    confidence: float
    agreement: float
    reason: str
    votes: Sequence[Vote] = ()


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Minimum probabilities of a label that replaces a given one, and of a pseudo-label.

    Attributes:
        relabel: Threshold for replacing a given label; `NEVER` if no threshold is precise enough.
        pseudo: Threshold for a pseudo-label, by class, (K,).
        words: One sentence on each, with the evidence.
    """

    relabel: float
    pseudo: Floats
    words: tuple[str, str]


def decide(
    assessment: Assessment,
    clips: Sequence[Clip],
    labels: Sequence[str],
    config: RefineConfig,
    *,
    families: Mapping[str, str],
    gold: Ints | None = None,
) -> list[Decision]:
    """Decide on the label of each clip.

    Args:
        assessment: Result of the label model for the same clips in the same order.
        clips: The clips; their gold labels are not used.
        labels: The K label names.
        config: Thresholds and target precisions.
        families: Family of each source. Sources with the same input (all voters of a modality) form one family, which
            counts once.
        gold: Human labels, (n,), -1 if unknown; None if there are none.

    Returns:
        One decision per clip, in the same order.

    Raises:
        ValueError: If clips and votes do not match, or a source has no family.
    """
    if len(clips) != len(assessment.labels) or assessment.probs.shape[1] != len(labels):
        raise ValueError(
            f"{len(clips)} clips and {len(labels)} labels do not match votes of shape {assessment.probs.shape}"
        )
    if missing := set(assessment.votes) - set(families):
        raise ValueError(f"sources without a family: {sorted(missing)}")
    given = np.array(label_indices(clips, labels), np.int64)
    gold = np.full(len(clips), -1) if gold is None else gold
    thresholds = find_thresholds(assessment, given, gold, config)
    supporting = supporting_families(assessment, families)
    draft = _Draft(
        np.full(len(clips), LabelAction.LEAVE, object), np.full(len(clips), -1), np.full(len(clips), "", object)
    )
    _decide_given(draft, assessment, given, supporting, thresholds, config)
    _apply_human_labels(draft, given, gold)
    _assign_pseudo_labels(draft, assessment, clips, (given < 0) & (gold < 0), supporting, thresholds, config)
    _select_for_review(draft, assessment, (given < 0) & (gold < 0), config)
    weights = _weights(assessment, given, gold, draft.new, config)
    shown_labels = np.where(draft.new >= 0, draft.new, assessment.labels)
    confidence = assessment.posterior[np.arange(len(clips)), shown_labels]
    return [
        Decision(
            clip_id=clip.clip_id,
            split=clip.split,
            given_label=clip.given_label,
            refined_label=labels[draft.new[i]] if draft.new[i] >= 0 else "",
            decision=draft.actions[i],
            weight=float(weights[i]),
            confidence=float(confidence[i]),
            agreement=float(assessment.agreement[i]),
            reason=_reason(assessment, labels, i, int(given[i]), int(supporting[i])) + draft.notes[i],
        )
        for i, clip in enumerate(clips)
    ]


@dataclass(slots=True)
class _Draft:
    """Decisions on n clips while they are made: action, new label (-1: not trained on), and a note for the reason."""

    actions: NDArray[np.object_]
    new: Ints
    notes: NDArray[np.object_]

    def set(self, rows: Bools | Ints, action: LabelAction, note: str = "") -> None:
        self.actions[rows] = action
        self.notes[rows] = note


def _decide_given(
    draft: _Draft, assessment: Assessment, given: Ints, supporting: Ints, thresholds: Thresholds, config: RefineConfig
) -> None:
    """Decide on given labels. Without votes a given label is kept."""
    labelled = given >= 0
    has_votes = labelled & ~np.isnan(assessment.agreement)
    given_probs = assessment.posterior[np.arange(len(given)), given]
    draft.new[labelled] = given[labelled]
    draft.set(labelled, LabelAction.KEEP)
    draft.set(has_votes & (given_probs < config.keep_above), LabelAction.DOWN_WEIGHT, "; weight reduced")
    draft.set(
        has_votes & (given_probs < config.review_below), LabelAction.REVIEW, "; weight reduced and listed for review"
    )
    drop = has_votes & (given_probs < config.drop_below)
    draft.set(drop, LabelAction.DROP, "; excluded from training")
    confident = (assessment.labels != given) & (assessment.confidence >= thresholds.relabel)
    relabel = has_votes & confident & (given_probs < config.review_below) & (supporting >= config.relabel_families)
    draft.new[drop] = -1
    draft.new[relabel] = assessment.labels[relabel]
    draft.set(relabel, LabelAction.RELABEL, f"; {config.relabel_precision:.0%} of such replacements are right")


def _apply_human_labels(draft: _Draft, given: Ints, gold: Ints) -> None:
    """Let human labels override all votes."""
    known = gold >= 0
    draft.new[known] = gold[known]
    draft.set(known & (given == gold), LabelAction.KEEP, "; confirmed by a human label")
    draft.set(known & (given >= 0) & (given != gold), LabelAction.RELABEL, "; replaced by a human label")
    draft.set(known & (given < 0), LabelAction.PSEUDO, "; assigned by a human label")


def _assign_pseudo_labels(
    draft: _Draft,
    assessment: Assessment,
    clips: Sequence[Clip],
    unlabelled: Bools,
    supporting: Ints,
    thresholds: Thresholds,
    config: RefineConfig,
) -> None:
    """Assign pseudo-labels, most confident first, up to the quota of each class."""
    allowed = unlabelled & np.array([clip.split in config.pseudo_splits for clip in clips], dtype=bool)
    confident = allowed & (assessment.confidence >= thresholds.pseudo[assessment.labels])
    confident &= supporting >= config.pseudo_families
    draft.set(unlabelled & ~confident, LabelAction.LEAVE, "; confidence too low for a pseudo-label")
    draft.set(unlabelled & ~allowed, LabelAction.LEAVE, "; clips of this split get no pseudo-labels")
    trained_counts = np.bincount(draft.new[~unlabelled & (draft.new >= 0)], minlength=assessment.probs.shape[1])
    for label, count in enumerate(trained_counts.tolist()):
        eligible = np.flatnonzero(confident & (assessment.labels == label)).tolist()
        eligible.sort(key=lambda i: (-assessment.confidence[i], clips[i].clip_id))
        quota = int(config.pseudo_quota * count)
        taken, over_quota = np.array(eligible[:quota], np.int64), np.array(eligible[quota:], np.int64)
        draft.set(taken, LabelAction.PSEUDO)
        draft.new[taken] = label
        draft.set(over_quota, LabelAction.LEAVE, "; pseudo-label quota of its class reached")


def _select_for_review(draft: _Draft, assessment: Assessment, unlabelled: Bools, config: RefineConfig) -> None:
    """Mark the clips that stay unlabelled and have the highest entropy for review."""
    unlabelled_rows = np.flatnonzero(unlabelled & (draft.actions == LabelAction.LEAVE))
    entropy = label_entropy(assessment.posterior)[unlabelled_rows]
    chosen = unlabelled_rows[np.argsort(-entropy, kind="stable")[: config.review_budget]]
    draft.actions[chosen] = LabelAction.REVIEW


def _weights(assessment: Assessment, given: Ints, gold: Ints, new: Ints, config: RefineConfig) -> Floats:
    """Return training weights: the probability of each label, scaled to a mean of one over clips with a given label.

    Classes are not balanced here: a class with many wrong labels would get the weight of its wrong members back.
    Training balances the classes by the remaining weights.
    """
    rows = np.arange(len(given))
    label_probs = np.where(new >= 0, assessment.posterior[rows, new], 0.0)
    label_probs[(gold >= 0) & (new >= 0)] = 1.0
    trained = (new >= 0) & ((given >= 0) | (gold >= 0))
    mean = label_probs[trained].mean() if trained.any() else 1.0
    weights: Floats = np.where(trained, label_probs / max(mean, 1e-12), config.pseudo_weight * label_probs)
    return weights


def supporting_families(assessment: Assessment, families: Mapping[str, str]) -> Ints:
    """Return the number of families that support the first choice, (n,).

    A family supports it if more than half of its voting sources vote for it.
    """
    n_supporting = np.zeros(len(assessment.labels), np.int64)
    for family in sorted({families[name] for name in assessment.votes}):
        family_votes = np.stack(
            [hard_votes for name, hard_votes in assessment.votes.items() if families[name] == family], axis=1
        )
        n_supporting += 2 * (family_votes == assessment.labels[:, None]).sum(axis=1) > (family_votes != ABSTAIN).sum(
            axis=1
        )
    return n_supporting


def _reason(assessment: Assessment, labels: Sequence[str], row: int, given: int, families: int) -> str:
    """Explain the decision on one clip: its votes, their families and the posterior."""
    first_choice = labels[assessment.labels[row]]
    cast_votes = [hard_votes[row] for hard_votes in assessment.votes.values() if hard_votes[row] != ABSTAIN]
    if not cast_votes:
        return "no source votes" + (f"; given label {labels[given]} is kept" if given >= 0 else "")
    summary = (
        f"{cast_votes.count(assessment.labels[row])} of {len(cast_votes)} sources ({families} "
        f"{'family' if families == 1 else 'families'}) vote for {first_choice} "
        f"(posterior {assessment.confidence[row]:.2f})"
    )
    if given < 0 or first_choice == labels[given]:
        return summary
    return f"{summary}; given label {labels[given]} has probability {assessment.posterior[row, given]:.2f}"


def find_thresholds(assessment: Assessment, given: Ints, gold: Ints, config: RefineConfig) -> Thresholds:
    """Find the lowest thresholds that reach the target precisions on clips with a human label.

    These clips are predicted without their human label. Without such held-out predictions nothing can be measured.

    Args:
        assessment: Result of the label model.
        given: Given labels, (n,); -1 if there is none.
        gold: Human labels, (n,); -1 if unknown.
        config: Target precisions and default thresholds.
    """
    classes = assessment.probs.shape[1]
    if assessment.held_out is None:
        descriptions = (
            "no given label is replaced: too few human labels to measure how often replacements are right",
            f"pseudo-labels need a probability of at least {config.pseudo_above:.2f}; their precision is unknown",
        )
        return Thresholds(NEVER, np.full(classes, config.pseudo_above), descriptions)
    known = gold >= 0
    choice = assessment.held_out.argmax(axis=1)
    confidence = assessment.held_out.max(axis=1)
    replaced = known & (given >= 0) & (choice != given)
    relabel = precision_threshold(confidence[replaced], (choice == gold)[replaced], config.relabel_precision)
    # A clip that gets a pseudo-label has no given label, so only votes are used here.
    choice, confidence = assessment.probs.argmax(axis=1), assessment.probs.max(axis=1)
    correct = choice == gold
    overall = precision_threshold(confidence[known], correct[known], config.pseudo_precision)
    rows_by_class = [known & (choice == label) for label in range(classes)]
    pseudo = np.array([_class_threshold(confidence[voted], correct[voted], overall, config) for voted in rows_by_class])
    relabel = max(relabel, config.relabel_above)
    return Thresholds(
        relabel, pseudo, _describe_thresholds(relabel, pseudo, int(replaced.sum()), int(known.sum()), config)
    )


def _class_threshold(confidence: Floats, correct: Bools, overall: float, config: RefineConfig) -> float:
    """Return the pseudo-label threshold of one class from the human-labelled clips that the votes assign to it.

    If these are too few to reach the precision, the threshold of all classes is used, unless they show a lower
    precision.
    """
    target = config.pseudo_precision
    class_threshold = precision_threshold(confidence, correct, target)
    if class_threshold < NEVER or overall == NEVER:
        return class_threshold
    threshold = max(overall, config.pseudo_above)
    correct_above = correct[confidence >= threshold]
    return NEVER if len(correct_above) and correct_above.mean() < target else threshold


def precision_threshold(confidence: Floats, correct: Bools, target: float) -> float:
    """Return the lowest confidence above which the share of correct labels reaches ``target`` with `CONFIDENCE_LEVEL`.

    Args:
        confidence: Confidence of m labels, (m,).
        correct: Whether each is correct, (m,).
        target: Minimum share of correct labels.

    Returns:
        The threshold; `NEVER` if none reaches the target.
    """
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(correct[order]).astype(np.float64)
    count = np.arange(1, len(order) + 1)
    lowest = beta.ppf(1 - CONFIDENCE_LEVEL, hits + 0.5, count - hits + 0.5)  # Jeffreys
    ranked = confidence[order]
    last_of_tie = np.append(ranked[1:] < ranked[:-1], True) if len(ranked) else np.zeros(0, dtype=bool)
    reached = np.flatnonzero((lowest >= target) & last_of_tie)
    return float(ranked[reached[-1]]) if len(reached) else NEVER


def _describe_thresholds(
    relabel: float, pseudo: Floats, replaced: int, human_labels: int, config: RefineConfig
) -> tuple[str, str]:
    if relabel == NEVER:
        relabel_text = (
            f"no given label is replaced: no threshold gives {config.relabel_precision:.0%} right replacements "
            f"(measured on {replaced} human labels)"
        )
    else:
        relabel_text = (
            f"a given label is replaced by one with a probability of at least {relabel:.2f} "
            f"({config.relabel_precision:.0%} right, measured on {replaced} human labels)"
        )
    reached = pseudo[pseudo < NEVER]
    if not len(reached):
        return relabel_text, (
            f"no pseudo-labels: no threshold gives {config.pseudo_precision:.0%} right ones "
            f"(measured on {human_labels} human labels)"
        )
    without = len(pseudo) - len(reached)
    return relabel_text, (
        f"pseudo-labels need a probability of at least {reached.min():.2f} to {reached.max():.2f}, depending on class "
        f"({config.pseudo_precision:.0%} right, measured on {human_labels} human labels)"
        + (f"; {without} of {len(pseudo)} classes get none: no threshold is precise enough" if without else "")
    )


def label_entropy(posterior: Floats) -> Floats:
    """Return the entropy of each clip's posterior, (n,), in bits, for a posterior (n, K).

    It estimates how much a human label would add. The given label is part of the posterior: if it contradicts the
    votes, the entropy is high.
    """
    probs = np.clip(posterior, 1e-12, 1.0)
    bits: Floats = -(probs * np.log2(probs)).sum(axis=1)
    return bits


def select_clips_to_label(posterior: Floats, known: Bools, count: int) -> Sequence[int]:
    """Select at most ``count`` clips for labelling by hand, by highest entropy and spread over classes.

    Clips are taken in turn from each predicted class, because entropy alone would select a single confusable pair of
    classes.

    Args:
        posterior: Posterior, (n, K).
        known: Clips that already have a human label, (n,).
        count: Maximum number of clips.
    """
    entropy, labels = label_entropy(posterior), posterior.argmax(axis=1)
    queues = []
    for label in range(posterior.shape[1]):
        rows = np.flatnonzero((labels == label) & ~known)
        queues.append(rows[np.argsort(-entropy[rows], kind="stable")].tolist())
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        nonempty = sorted((queue for queue in queues if queue), key=lambda queue: -entropy[queue[0]])
        chosen += [queue.pop(0) for queue in nonempty]
    return chosen[:count]


def describe_effect(decisions: Sequence[Decision], labels: Sequence[str]) -> list[str]:
    """Describe clips and weights before and after refinement: a line for all clips, then one for each class."""
    before = {label: sum(decision.given_label == label for decision in decisions) for label in labels}
    after = {label: sum(d.refined_label == label and d.weight > 0 for d in decisions) for label in labels}
    weight = {label: sum(d.weight for d in decisions if d.refined_label == label) for label in labels}
    trained = [decision.weight for decision in decisions if decision.weight > 0]
    effective_size = sum(trained) ** 2 / sum(value**2 for value in trained) if trained else 0.0
    total, total_weight = max(sum(before.values()), 1), max(sum(weight.values()), 1e-12)
    return [
        f"training clips: {sum(before.values())} before, {sum(after.values())} after (effective sample size by weight: "
        f"{effective_size:.0f})",
        *(
            f"{label}: {format_count(before[label], 'clip')} ({before[label] / total:.1%}) before, "
            f"{after[label]} after, {weight[label] / total_weight:.1%} of the total weight"
            for label in labels
            if before[label] or after[label]
        ),
    ]


def source_metrics(assessment: Assessment) -> dict[str, dict[str, float | None]]:
    """Return coverage, agreement with given labels, accuracy and weight of each source; None if unknown."""
    return {
        source.name: {
            field: None if np.isnan(value := getattr(source, field)) else round(float(value), 6)
            for field in ("coverage", "agreement", "accuracy", "weight")
        }
        for source in assessment.sources
    }
