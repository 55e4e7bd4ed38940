"""What becomes of each clip's label: kept, weighed, replaced, dropped, or shown to a person.

Nothing is overwritten lightly: a given label is replaced, and a clip without one gets a pseudo-label, from the
probability on at which clips with verdicts show that this is right often enough (`find_targets`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from ecmf_pipeline.core.arrays import Bools, Floats, Ints
from ecmf_pipeline.core.clips import Clip, ClipId, Split, labels_of
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.label_model import Assessment
from ecmf_pipeline.labels.votes import ABSTAIN

NEVER = float("inf")
"""The threshold that nothing reaches."""

CERTAINTY = 0.9
"""How sure it must be, one-sided, that the precision above a threshold is at least the target. Each threshold is judged
by itself, and the lowest is taken that passes: that it is one is a little less sure."""


class Verdict(StrEnum):
    """What is done with a clip's label."""

    KEEP = "keep"
    """The given label stands."""
    DOWN_WEIGHT = "down_weight"
    """The given label stands, but counts less."""
    RELABEL = "relabel"
    """Another label replaces the given one."""
    DROP = "drop"
    """The given label is most likely wrong and it is unclear what is right: not trained on."""
    PSEUDO = "pseudo"
    """A clip without a given label gets one."""
    REVIEW = "review"
    """A human should look. A given label stands meanwhile, by its low weight; a clip without one is not trained on."""
    LEAVE = "leave"
    """A clip without a given label stays without."""


@dataclass(frozen=True, slots=True)
class Vote:
    """The vote of one source on one clip.

    Attributes:
        source: Its name, as in ``text/linear``.
        label: Its first choice; "" when it abstains.
        probability: Probability of that choice; None when it abstains.
    """

    source: str
    label: str
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one clip's label.

    Attributes:
        clip_id: The clip.
        split: Its split.
        given_label: The given label, "" where there is none.
        refined_label: The label to train on, "" where the clip is not trained on.
        decision: What was decided.
        weight: The clip's weight in training, 0 where it is not trained on; labelled clips average one.
        confidence: Probability that ``refined_label`` is right; without one, that of the label model's first choice.
        agreement: Share of the voting sources whose vote is the label model's first choice; NaN where none votes.
        reason: Why, in words.
        votes: One vote a source, where they are known: `read_decisions` reads them on demand.
    """

    clip_id: ClipId
    split: Split
    given_label: str
    refined_label: str
    decision: Verdict
    weight: float
    confidence: float
    agreement: float
    reason: str
    votes: Sequence[Vote] = ()


@dataclass(frozen=True, slots=True)
class Targets:
    """How probable a label must be to replace a given one, and to stand where there was none.

    Attributes:
        relabel: Threshold of replacing a given label; `NEVER` where no threshold is known to be precise enough.
        pseudo: Threshold of a pseudo-label, by class, (K,).
        words: How they were found, one sentence each.
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
    """Decide about every clip.

    Args:
        assessment: What the sources say, of the same clips in the same order.
        clips: The clips; their gold labels are not read.
        labels: The K label names.
        config: The thresholds and targets.
        families: The family of each source: sources that see the same features (all voters of a modality) are one
            family and count once.
        gold: Labels that a person vouches for, (n,), -1 where unknown; None: nowhere known.

    Returns:
        One decision a clip, in the same order.

    Raises:
        ValueError: When the clips are not those that were voted on, or a source has no family.
    """
    if len(clips) != len(assessment.labels) or assessment.probs.shape[1] != len(labels):
        raise ValueError(f"{len(clips)} clips, {len(labels)} labels but votes of {assessment.probs.shape}")
    if missing := set(assessment.votes) - set(families):
        raise ValueError(f"no family for {sorted(missing)}")
    given = np.array(labels_of(clips, labels), np.int64)
    gold = np.full(len(clips), -1) if gold is None else gold
    targets = find_targets(assessment, given, gold, config)
    backing = families_behind(assessment, families)
    draft = _Draft(np.full(len(clips), Verdict.LEAVE, object), np.full(len(clips), -1), np.full(len(clips), "", object))
    _judge_given(draft, assessment, given, backing, targets, config)
    _obey_verdicts(draft, given, gold)
    _add_pseudo(draft, assessment, clips, (given < 0) & (gold < 0), backing, targets, config)
    _ask_for_review(draft, assessment, (given < 0) & (gold < 0), config)
    weights = _weights(assessment, given, gold, draft.new, config)
    shown = np.where(draft.new >= 0, draft.new, assessment.labels)
    confidence = assessment.posterior[np.arange(len(clips)), shown]
    return [
        Decision(
            clip_id=clip.clip_id,
            split=clip.split,
            given_label=clip.given_label,
            refined_label=labels[draft.new[i]] if draft.new[i] >= 0 else "",
            decision=draft.verdicts[i],
            weight=float(weights[i]),
            confidence=float(confidence[i]),
            agreement=float(assessment.agreement[i]),
            reason=_reason(assessment, labels, i, int(given[i]), int(backing[i])) + draft.notes[i],
        )
        for i, clip in enumerate(clips)
    ]


@dataclass(slots=True)
class _Draft:
    """Decisions on n clips while they are made: verdict, new label (-1: not trained on), and what the reason adds."""

    verdicts: NDArray[np.object_]
    new: Ints
    notes: NDArray[np.object_]

    def set(self, rows: Bools | Ints, verdict: Verdict, note: str = "") -> None:
        self.verdicts[rows] = verdict
        self.notes[rows] = note


def _judge_given(
    draft: _Draft, assessment: Assessment, given: Ints, backing: Ints, targets: Targets, config: RefineConfig
) -> None:
    """Verdicts on given labels. Without a vote there is nothing to doubt one by."""
    labelled = given >= 0
    doubted = labelled & ~np.isnan(assessment.agreement)
    belief = assessment.posterior[np.arange(len(given)), given]
    draft.new[labelled] = given[labelled]
    draft.set(labelled, Verdict.KEEP)
    draft.set(doubted & (belief < config.keep_above), Verdict.DOWN_WEIGHT, "; it counts less")
    draft.set(doubted & (belief < config.review_below), Verdict.REVIEW, "; it counts less, and a person should look")
    drop = doubted & (belief < config.drop_below)
    draft.set(drop, Verdict.DROP, "; left out of training")
    sure = (assessment.labels != given) & (assessment.confidence >= targets.relabel)
    relabel = doubted & sure & (belief < config.review_below) & (backing >= config.relabel_families)
    draft.new[drop] = -1
    draft.new[relabel] = assessment.labels[relabel]
    draft.set(relabel, Verdict.RELABEL, f"; {config.relabel_precision:.0%} of such replacements are right")


def _obey_verdicts(draft: _Draft, given: Ints, gold: Ints) -> None:
    """A label that a person vouches for stands, whatever the sources say."""
    known = gold >= 0
    draft.new[known] = gold[known]
    draft.set(known & (given == gold), Verdict.KEEP, "; a person's verdict is the same")
    draft.set(known & (given >= 0) & (given != gold), Verdict.RELABEL, "; replaced by a person's verdict")
    draft.set(known & (given < 0), Verdict.PSEUDO, "; labelled by a person's verdict")


def _add_pseudo(
    draft: _Draft,
    assessment: Assessment,
    clips: Sequence[Clip],
    unlabeled: Bools,
    backing: Ints,
    targets: Targets,
    config: RefineConfig,
) -> None:
    """Enter pseudo-labels, the surest first up to each class's quota."""
    allowed = unlabeled & np.array([clip.split in config.pseudo_splits for clip in clips], dtype=bool)
    sure = allowed & (assessment.confidence >= targets.pseudo[assessment.labels])
    sure &= backing >= config.pseudo_families
    draft.set(unlabeled & ~sure, Verdict.LEAVE, "; too unsure to use")
    draft.set(unlabeled & ~allowed, Verdict.LEAVE, "; clips of this split get no pseudo-labels")
    trained = np.bincount(draft.new[~unlabeled & (draft.new >= 0)], minlength=assessment.probs.shape[1])
    for label, count in enumerate(trained.tolist()):
        eligible = np.flatnonzero(sure & (assessment.labels == label)).tolist()
        eligible.sort(key=lambda i: (-assessment.confidence[i], clips[i].clip_id))
        quota = int(config.pseudo_quota * count)
        taken, turned_away = np.array(eligible[:quota], np.int64), np.array(eligible[quota:], np.int64)
        draft.set(taken, Verdict.PSEUDO)
        draft.new[taken] = label
        draft.set(turned_away, Verdict.LEAVE, "; its class has its quota of pseudo-labels")


def _ask_for_review(draft: _Draft, assessment: Assessment, unlabeled: Bools, config: RefineConfig) -> None:
    """Of the clips that stay without a label, those whose verdict would teach most."""
    left = np.flatnonzero(unlabeled & (draft.verdicts == Verdict.LEAVE))
    taught = label_entropy(assessment.posterior)[left]
    chosen = left[np.argsort(-taught, kind="stable")[: config.review_budget]]
    draft.verdicts[chosen] = Verdict.REVIEW


def _weights(assessment: Assessment, given: Ints, gold: Ints, new: Ints, config: RefineConfig) -> Floats:
    """What each clip counts: how far its label is believed, scaled so that clips with a given label average one.

    Classes are not evened out: a class whose labels are mostly wrong would get its false members' weight back. The
    training balances classes by the weights that are left.
    """
    rows = np.arange(len(given))
    belief = np.where(new >= 0, assessment.posterior[rows, new], 0.0)
    belief[(gold >= 0) & (new >= 0)] = 1.0
    trained = (new >= 0) & ((given >= 0) | (gold >= 0))
    mean = belief[trained].mean() if trained.any() else 1.0
    weights: Floats = np.where(trained, belief / max(mean, 1e-12), config.pseudo_weight * belief)
    return weights


def families_behind(assessment: Assessment, families: Mapping[str, str]) -> Ints:
    """How many families favour the first choice, (n,): those of whose voting sources more than half vote for it."""
    behind = np.zeros(len(assessment.labels), np.int64)
    for family in sorted({families[name] for name in assessment.votes}):
        casts = np.stack(
            [hard_votes for name, hard_votes in assessment.votes.items() if families[name] == family], axis=1
        )
        behind += 2 * (casts == assessment.labels[:, None]).sum(axis=1) > (casts != ABSTAIN).sum(axis=1)
    return behind


def _reason(assessment: Assessment, labels: Sequence[str], row: int, given: int, families: int) -> str:
    first = labels[assessment.labels[row]]
    casts = [hard_votes[row] for hard_votes in assessment.votes.values() if hard_votes[row] != ABSTAIN]
    if not casts:
        return "no source votes" + (f"; given label {labels[given]} stands" if given >= 0 else "")
    said = (
        f"{casts.count(assessment.labels[row])} of {len(casts)} sources ({families} "
        f"{'family' if families == 1 else 'families'}) say {first} (posterior {assessment.confidence[row]:.2f})"
    )
    if given < 0 or first == labels[given]:
        return said
    return f"{said}; given label {labels[given]} has {assessment.posterior[row, given]:.2f}"


def find_targets(assessment: Assessment, given: Ints, gold: Ints, config: RefineConfig) -> Targets:
    """The lowest thresholds that reach the precisions asked for, estimated on clips with a gold label, (n,).

    A gold clip is judged there by what the sources say of it without its gold label. Of an assessment that knows no
    gold labels nothing can be estimated.
    """
    classes = assessment.probs.shape[1]
    if assessment.held_out is None:
        words = (
            "no given label is replaced: there are not enough verdicts to know how often that would be right",
            f"pseudo-labels need a probability of {config.pseudo_above:.2f}; how often they are right is not known",
        )
        return Targets(NEVER, np.full(classes, config.pseudo_above), words)
    known = gold >= 0
    choice = assessment.held_out.argmax(axis=1)
    confidence = assessment.held_out.max(axis=1)
    replaced = known & (given >= 0) & (choice != given)
    relabel = precision_threshold(confidence[replaced], (choice == gold)[replaced], config.relabel_precision)
    # A pseudo-label has no given label behind it: it is judged by the votes alone.
    choice, confidence = assessment.probs.argmax(axis=1), assessment.probs.max(axis=1)
    right = choice == gold
    overall = precision_threshold(confidence[known], right[known], config.pseudo_precision)
    of_classes = [known & (choice == label) for label in range(classes)]
    pseudo = np.array([_of_class(confidence[voted], right[voted], overall, config) for voted in of_classes])
    relabel = max(relabel, config.relabel_above)
    return Targets(relabel, pseudo, _words(relabel, pseudo, int(replaced.sum()), int(known.sum()), config))


def _of_class(confidence: Floats, right: Bools, overall: float, config: RefineConfig) -> float:
    """The threshold of one class's pseudo-labels, from the gold clips that the votes put there.

    Where those are too few to show the precision, that of all classes stands in for it, unless they show less.
    """
    target = config.pseudo_precision
    own = precision_threshold(confidence, right, target)
    if own < NEVER or overall == NEVER:
        return own
    threshold = max(overall, config.pseudo_above)
    above = right[confidence >= threshold]
    return NEVER if len(above) and above.mean() < target else threshold


def precision_threshold(confidence: Floats, right: Bools, target: float) -> float:
    """The lowest confidence above which the share of right labels is at least ``target``, with `CERTAINTY`.

    Of m labels: how sure each was, (m,), and whether it was right, (m,). `NEVER` where none reaches the target.
    """
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(right[order]).astype(np.float64)
    count = np.arange(1, len(order) + 1)
    lowest = beta.ppf(1 - CERTAINTY, hits + 0.5, count - hits + 0.5)  # Jeffreys
    ranked = confidence[order]
    last_of_tie = np.append(ranked[1:] < ranked[:-1], True) if len(ranked) else np.zeros(0, dtype=bool)
    reached = np.flatnonzero((lowest >= target) & last_of_tie)
    return float(ranked[reached[-1]]) if len(reached) else NEVER


def _words(relabel: float, pseudo: Floats, replaced: int, verdicts: int, config: RefineConfig) -> tuple[str, str]:
    if relabel == NEVER:
        first = (
            f"no given label is replaced: above no threshold are {config.relabel_precision:.0%} of the replacements "
            f"right by verdicts ({replaced} could be judged)"
        )
    else:
        first = (
            f"a given label is replaced from a probability of {relabel:.2f} on, "
            f"right {config.relabel_precision:.0%} of the time by {replaced} replacements with a verdict"
        )
    reached = pseudo[pseudo < NEVER]
    if not len(reached):
        return first, f"no pseudo-label is right {config.pseudo_precision:.0%} of the time on verdicts: there are none"
    closed = len(pseudo) - len(reached)
    return first, (
        f"pseudo-labels need a probability of {reached.min():.2f} to {reached.max():.2f}, by class "
        f"(right {config.pseudo_precision:.0%} of the time by {verdicts} verdicts)"
        + (f"; {closed} of {len(pseudo)} classes get none, since theirs are not that often right" if closed else "")
    )


def label_entropy(posterior: Floats) -> Floats:
    """How much a person's verdict on each clip would teach, (n,), in bits: the entropy of its posterior, (n, K).

    The given label counts: an unlikely one is where label and votes contradict each other, and the posterior is torn.
    """
    probs = np.clip(posterior, 1e-12, 1.0)
    bits: Floats = -(probs * np.log2(probs)).sum(axis=1)
    return bits


def worth_labelling(posterior: Floats, known: Bools, count: int) -> Sequence[int]:
    """The clips to ask a person about first, at most ``count``, no label in too many of them.

    The clips are taken by what they teach, in turn from each class that is thought likeliest: entropy alone would ask
    about one confusable pair over and over.

    A clip is asked about by its posterior, (n, K), unless a person has judged it already (``known``, (n,)).
    """
    taught, labels = label_entropy(posterior), posterior.argmax(axis=1)
    queues = []
    for label in range(posterior.shape[1]):
        rows = np.flatnonzero((labels == label) & ~known)
        queues.append(rows[np.argsort(-taught[rows], kind="stable")].tolist())
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        heads = sorted((queue for queue in queues if queue), key=lambda queue: -taught[queue[0]])
        chosen += [queue.pop(0) for queue in heads]
    return chosen[:count]


def effect_of(decisions: Sequence[Decision], labels: Sequence[str]) -> list[str]:
    """Clips and weight by class, before and after, one sentence a class that changes, after one about all."""
    before = {label: sum(decision.given_label == label for decision in decisions) for label in labels}
    after = {label: sum(d.refined_label == label and d.weight > 0 for d in decisions) for label in labels}
    weight = {label: sum(d.weight for d in decisions if d.refined_label == label) for label in labels}
    trained = [decision.weight for decision in decisions if decision.weight > 0]
    worth = sum(trained) ** 2 / sum(value**2 for value in trained) if trained else 0.0
    total, whole = max(sum(before.values()), 1), max(sum(weight.values()), 1e-12)
    return [
        f"trained on: {sum(before.values())} clips before, {sum(after.values())} after, whose uneven weights are worth "
        f"{worth:.0f} even ones",
        *(
            f"{label}: {before[label]} clips ({before[label] / total:.1%}) before, {after[label]} after, "
            f"{weight[label] / whole:.1%} of the weight"
            for label in labels
            if before[label] or after[label]
        ),
    ]


def source_accounts(assessment: Assessment) -> dict[str, dict[str, float | None]]:
    """Coverage, agreement with given labels, accuracy and weight of each source; None where it cannot be known."""
    return {
        source.name: {
            field: None if np.isnan(value := getattr(source, field)) else round(float(value), 6)
            for field in ("coverage", "agreement", "accuracy", "weight")
        }
        for source in assessment.sources
    }
