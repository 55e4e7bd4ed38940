"""Decide on the label of each clip: keep, down-weight, replace, drop, add or review it.

A given label is replaced, and an unlabelled clip gets a pseudo-label, only above a probability at which human labels
show that this is correct often enough (`find_thresholds`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from itertools import repeat
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Bools, Floats, Ints
from ecmf_pipeline.core.clips import Clip, ClipId, Clips, Split, label_indices
from ecmf_pipeline.core.columns import Rows
from ecmf_pipeline.core.console import format_count, format_share
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.labels.basis import describe_verdicts
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.label_model import Assessment
from ecmf_pipeline.labels.reasons import compare
from ecmf_pipeline.labels.selection import can_be_judged, label_entropy
from ecmf_pipeline.labels.thresholds import NEVER, Thresholds, find_thresholds
from ecmf_pipeline.labels.votes import ABSTAIN

if TYPE_CHECKING:
    import pyarrow as pa


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
        confidence: Probability that ``label`` is correct.
        agreement: Share of the voting sources that vote for ``label``; NaN if none votes.
        reason: Explanation of the decision, generated from the numbers that decided.
        basis: What ``label`` rests on: ``verdicts`` if a person has verified it, otherwise the labels that the sources
            were trained on: ``given``, ``verdicts``, or ``zero-shot`` if no source saw a label of this corpus.
        label: The label that ``confidence``, ``agreement`` and the log-odds are about: ``refined_label``; if it is
            empty, the most probable label.
        rival: The label that ``label`` is compared with: the given label if it differs; otherwise the most probable
            other label.
        log_odds: Log-odds of ``label`` against ``rival``: the sum of the three parts below. NaN, like these, if a human
            label decided.
        log_odds_prior: Part of the frequency of the two labels.
        log_odds_given: Part of the given label; 0 without one.
        log_odds_sources: Part of the votes of all sources; 0 without votes.
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
    label: str = ""
    rival: str = ""
    log_odds: float = math.nan
    log_odds_prior: float = math.nan
    log_odds_given: float = math.nan
    log_odds_sources: float = math.nan
    basis: Basis = Basis.GIVEN
    votes: Sequence[Vote] = ()


class Decisions(Rows[Decision]):
    """Decisions as columns; see `Rows`. The votes, if they are loaded, are columns ``<source>_vote`` and ``_prob``."""

    row_type = Decision
    types: ClassVar[Mapping[str, str]] = {
        field.name: "double" if field.type == "float" else "string"
        for field in fields(Decision)
        if field.name != "votes"
    }
    classes: ClassVar[Mapping[str, Any]] = {"split": Split, "decision": LabelAction, "basis": Basis}

    @property
    def sources(self) -> list[str]:
        """Names of the sources whose votes are loaded."""
        return [name.removesuffix("_vote") for name in self.table.column_names[len(self.types) :: 2]]

    @property
    def is_trained(self) -> Bools:
        """Whether each clip is trained on, (n,)."""
        return self.column("weight") > 0

    def _values(self, table: pa.Table) -> Iterator[Iterable[Any]]:
        yield from super()._values(table)
        by_source = [
            [
                Vote(source, label, None if np.isnan(probability) else probability)
                for label, probability in zip(
                    *(table.column(f"{source}_{part}").to_pylist() for part in ("vote", "prob")), strict=True
                )
            ]
            for source in self.sources
        ]
        yield map(list, zip(*by_source, strict=True)) if by_source else repeat(())


def decide(
    assessment: Assessment,
    clips: Sequence[Clip],
    labels: Sequence[str],
    config: RefineConfig,
    *,
    families: Mapping[str, str],
    gold: Ints | None = None,
    shares: Floats | None = None,
    is_bad: Bools | None = None,
    basis: Basis = Basis.GIVEN,
) -> Decisions:
    """Decide on the label of each clip.

    Args:
        assessment: Result of the label model for the same clips in the same order; see `soften` if reviewers differ.
        clips: The clips; their gold labels are not used.
        labels: The K label names.
        config: Thresholds and target precisions.
        families: Family of each source. Sources with the same input (all voters of a modality) form one family, which
            counts once.
        gold: Human labels, (n,), -1 if unknown; None if there are none.
        shares: Share of reviewers for each label, (n, K), of clips on which they differ; NaN for other clips. The label
            of most reviewers is trained on with its share as probability; None if there are no such clips.
        is_bad: Clips that people call unusable, (n,): they are not trained on; None if there are none.
        basis: What the sources were trained on. With `Basis.ZERO_SHOT` each unlabelled clip gets its most probable
            label from ``zero_shot_threshold`` on, without quota; there are no given labels to keep a balance with.

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
    if basis is Basis.ZERO_SHOT:
        config = config.model_copy(
            update={"pseudo_above": config.zero_shot_threshold(len(labels)), "pseudo_families": 1}
        )
    given = np.array(label_indices(clips, labels), np.int64)
    gold = np.full(len(clips), -1) if gold is None else gold
    thresholds = find_thresholds(assessment, given, gold, config)
    supporting = supporting_families(assessment, families)
    # np.full would store plain texts instead of actions.
    leave = np.full(len(clips), None, object)
    leave[:] = LabelAction.LEAVE
    draft = _Draft(leave, np.full(len(clips), -1), np.full(len(clips), "", object))
    is_bad = np.zeros(len(clips), bool) if is_bad is None else is_bad
    by_people = gold if shares is None else _majority(assessment, gold, shares)
    unlabelled = (given < 0) & (by_people < 0) & ~is_bad
    _decide_given(draft, assessment, given, supporting, thresholds, config)
    _apply_human_labels(draft, given, by_people)
    draft.notes[(by_people >= 0) & (gold < 0)] += "; reviewers differ, so the weight is the share of this label"
    quota = math.inf if basis is Basis.ZERO_SHOT else config.pseudo_quota
    _assign_pseudo_labels(draft, assessment, clips, labels, unlabelled, supporting, thresholds, config, quota)
    _select_for_review(draft, assessment, unlabelled & can_be_judged(clips), config)
    draft.new[is_bad] = -1
    draft.set(is_bad & (given >= 0), LabelAction.DROP, "; excluded from training: a bad clip by human verdict")
    draft.set(is_bad & (given < 0), LabelAction.LEAVE, "; no pseudo-label: a bad clip by human verdict")
    weights = _weights(assessment, given, gold, by_people, draft.new, config)
    judged = np.where(draft.new >= 0, draft.new, assessment.labels)
    comparison = compare(assessment, judged, given, by_people)
    names = np.array([*labels, ""], object)
    columns = Clips.of(clips)
    return Decisions.of_columns(
        clip_id=columns.table.column("clip_id"),
        split=columns.table.column("split"),
        given_label=columns.table.column("given_label"),
        refined_label=names[draft.new],
        decision=draft.actions,
        weight=weights,
        confidence=comparison.probability,
        agreement=comparison.agreement,
        reason=[
            reason + note
            for reason, note in zip(comparison.explanations(labels, has_given=given >= 0), draft.notes, strict=True)
        ],
        label=names[judged],
        rival=names[comparison.rival],
        log_odds=comparison.log_odds.total,
        log_odds_prior=comparison.log_odds.prior,
        log_odds_given=comparison.log_odds.given,
        log_odds_sources=comparison.log_odds.sources,
        basis=np.where(by_people >= 0, Basis.VERDICTS.value, basis.value),
    )


def soften(assessment: Assessment, shares: Floats) -> Assessment:
    """Return the assessment with the shares of reviewers as posterior of the clips on which they differ.

    Args:
        assessment: Result of the label model.
        shares: Share of reviewers for each label, (n, K); NaN for other clips.
    """
    return replace(assessment, posterior=np.where(np.isnan(shares), assessment.posterior, shares))


def _majority(assessment: Assessment, gold: Ints, shares: Floats) -> Ints:
    """Return the human labels, (n,), and the label of most reviewers if they differ; the sources break ties."""
    is_disputed = ~np.isnan(shares).any(axis=1)
    return np.where(is_disputed, (shares + 1e-6 * assessment.probs).argmax(axis=1), gold)


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
    has_votes = labelled & (assessment.n_voting > 0)
    given_probs = assessment.posterior[np.arange(len(given)), given]
    draft.new[labelled] = given[labelled]
    draft.set(labelled, LabelAction.KEEP)
    draft.set(labelled & ~has_votes, LabelAction.KEEP, "; the given label is kept")
    draft.set(
        has_votes & (given_probs < config.keep_above),
        LabelAction.DOWN_WEIGHT,
        f"; weight reduced: the given label is below {config.keep_above:.2f}",
    )
    draft.set(
        has_votes & (given_probs < config.review_below),
        LabelAction.REVIEW,
        f"; weight reduced and listed for review: the given label is below {config.review_below:.2f}",
    )
    drop = has_votes & (given_probs < config.drop_below)
    draft.set(drop, LabelAction.DROP, f"; excluded from training: the given label is below {config.drop_below:.2f}")
    confident = (assessment.labels != given) & (assessment.confidence >= thresholds.relabel)
    relabel = has_votes & confident & (given_probs < config.review_below) & (supporting >= config.relabel_families)
    draft.new[drop] = -1
    draft.new[relabel] = assessment.labels[relabel]
    draft.set(
        relabel,
        LabelAction.RELABEL,
        f"; replaced: from {thresholds.relabel:.2f} {config.relabel_precision:.0%} of such replacements are right",
    )


def _apply_human_labels(draft: _Draft, given: Ints, gold: Ints) -> None:
    """Let human labels override all votes."""
    known = gold >= 0
    draft.new[known] = gold[known]
    draft.set(known & (given == gold), LabelAction.KEEP, "; the given label is confirmed")
    draft.set(known & (given >= 0) & (given != gold), LabelAction.RELABEL, "; the given label is replaced")
    draft.set(known & (given < 0), LabelAction.PSEUDO, "; the clip had no label")


def _assign_pseudo_labels(
    draft: _Draft,
    assessment: Assessment,
    clips: Sequence[Clip],
    labels: Sequence[str],
    unlabelled: Bools,
    supporting: Ints,
    thresholds: Thresholds,
    config: RefineConfig,
    quota_share: float,
) -> None:
    """Assign pseudo-labels, most confident first, up to the quota of each class."""
    allowed = unlabelled & (Clips.of(clips).indices("split", [split.value for split in config.pseudo_splits]) >= 0)
    supported = supporting >= config.pseudo_families
    clip_ids = Clips.of(clips).column("clip_id")
    draft.set(unlabelled & ~allowed, LabelAction.LEAVE, "; clips of this split get no pseudo-labels")
    trained_counts = np.bincount(draft.new[~unlabelled & (draft.new >= 0)], minlength=len(labels))
    for label, (name, count) in enumerate(zip(labels, trained_counts.tolist(), strict=True)):
        threshold = thresholds.pseudo[label]
        candidates = allowed & (assessment.labels == label)
        confident = candidates & (assessment.confidence >= threshold)
        draft.set(
            candidates & ~confident,
            LabelAction.LEAVE,
            f"; no pseudo-label: {name} is below {threshold:.2f}"
            if threshold < NEVER
            else f"; no pseudo-label: no threshold for {name} is precise enough",
        )
        for row in np.flatnonzero(confident & ~supported).tolist():
            draft.notes[row] = (
                f"; no pseudo-label: {supporting[row]} of {config.pseudo_families} needed families vote for {name}"
            )
        eligible = np.flatnonzero(confident & supported)
        eligible = eligible[np.argsort(clip_ids[eligible], kind="stable")]
        eligible = eligible[np.argsort(-assessment.confidence[eligible], kind="stable")]
        quota = len(eligible) if math.isinf(quota_share) else int(quota_share * count)
        taken, over_quota = eligible[:quota], eligible[quota:]
        draft.set(taken, LabelAction.PSEUDO, f"; pseudo-label: {name} is at least {threshold:.2f}")
        draft.new[taken] = label
        draft.set(over_quota, LabelAction.LEAVE, f"; no pseudo-label: the quota of {quota} for {name} is reached")


def _select_for_review(draft: _Draft, assessment: Assessment, unlabelled: Bools, config: RefineConfig) -> None:
    """Mark the clips that stay unlabelled and have the highest entropy for review."""
    unlabelled_rows = np.flatnonzero(unlabelled & (draft.actions == LabelAction.LEAVE))
    entropy = label_entropy(assessment.posterior)[unlabelled_rows]
    chosen = unlabelled_rows[np.argsort(-entropy, kind="stable")[: config.review_budget]]
    draft.actions[chosen] = LabelAction.REVIEW
    draft.notes[chosen] += "; listed for review"


def _weights(
    assessment: Assessment, given: Ints, gold: Ints, by_people: Ints, new: Ints, config: RefineConfig
) -> Floats:
    """Return training weights: the probability of each label, scaled to a mean of one over clips with a given label.

    Classes are not balanced here: a class with many wrong labels would get the weight of its wrong members back.
    Training balances the classes by the remaining weights.
    """
    rows = np.arange(len(given))
    label_probs = np.where(new >= 0, assessment.posterior[rows, new], 0.0)
    label_probs[(gold >= 0) & (new >= 0)] = 1.0
    trained = (new >= 0) & ((given >= 0) | (by_people >= 0))
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


def labels_to_verify(decisions: Sequence[Decision], labels: Sequence[str]) -> Ints:
    """Return the label of each clip that a verdict would confirm or change, (n,).

    This is the refined label; of a dropped clip, the given label; of a clip without a label, the most probable one.
    """
    rows = Decisions.of(decisions)
    refined, given, label = (rows.indices(name, labels) for name in ("refined_label", "given_label", "label"))
    return np.where(refined >= 0, refined, np.where(given >= 0, given, label))


def describe_counts(decisions: Sequence[Decision], verified: Bools) -> list[str]:
    """Count the decisions by action, and how many of each are verdicts, such as ``1 relabel (by verdict)``."""
    rows = Decisions.of(decisions)
    total, by_verdict = rows.counts("decision"), rows.where(verified).counts("decision")
    return [
        f"{count} {name}"
        + (f" ({share})" if (share := format_share(by_verdict.get(name, 0), count, "by verdict")) else "")
        for name, count in sorted(total.items())
    ]


def describe_effect(decisions: Sequence[Decision], labels: Sequence[str]) -> list[str]:
    """Describe clips and weights before and after refinement: a line for all clips, then one for each class."""
    rows = Decisions.of(decisions)
    weights, refined = rows.column("weight"), rows.indices("refined_label", labels)
    before, after = rows.counts("given_label"), rows.where(rows.is_trained).counts("refined_label")
    weight = {label: float(weights[refined == index].sum()) for index, label in enumerate(labels)}
    before, after = ({label: counts.get(label, 0) for label in labels} for counts in (before, after))
    trained = weights[weights > 0]
    effective_size = trained.sum() ** 2 / (trained**2).sum() if len(trained) else 0.0
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


def describe_zero_shot(decisions: Sequence[Decision], assessment: Assessment, gold: Ints) -> list[str]:
    """Describe labels that no label of this corpus has confirmed, and how often they agree with the verdicts.

    Args:
        decisions: Decisions on n clips.
        assessment: Result of the label model; ``probs`` predicts verified clips without their own verdict.
        gold: Labels known to be right, (n,); -1 if unknown.
    """
    known = np.flatnonzero(gold >= 0)
    rows = Decisions.of(decisions)
    zero_shot = rows.where(rows.column("basis") == Basis.ZERO_SHOT.value)
    n_labelled = int((zero_shot.column("refined_label") != "").sum())
    voting = sum(source.coverage > 0 for source in assessment.sources)
    lines = [
        f"zero-shot, unverified: {format_count(n_labelled, 'clip')} labelled by {format_count(voting, 'source')}, "
        f"{len(zero_shot) - n_labelled} without label; the confidence is not calibrated",
        describe_verdicts(gold)
        + (
            f"; the sources agree with {int((assessment.probs[known].argmax(axis=1) == gold[known]).sum())} of them, "
            "predicted without their own verdict"
            if len(known)
            else ""
        ),
    ]
    shares = Counter({label: count for label, count in zero_shot.counts("refined_label").items() if label})
    if shares:
        lines.append(", ".join(f"{count} {label}" for label, count in shares.most_common()))
    return lines


def source_metrics(assessment: Assessment) -> dict[str, dict[str, float | None]]:
    """Return coverage, agreement with given labels, accuracy and weight of each source; None if unknown."""
    return {
        source.name: {
            field: None if np.isnan(value := getattr(source, field)) else round(float(value), 6)
            for field in ("coverage", "agreement", "accuracy", "weight")
        }
        for source in assessment.sources
    }
