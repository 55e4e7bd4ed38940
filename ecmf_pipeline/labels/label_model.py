"""Estimate a posterior over the true label from weak, correlated votes that may abstain.

The votes are pooled log-linearly, with one weight per source and one bias per class: few enough parameters to fit on a
hundred clips. All weights are fitted jointly, so correlated sources are not counted twice; naive Bayes multiplies them
and becomes overconfident. The given labels used for fitting may be wrong, so the pool is fitted through a noise
transition (`votes.fit_noisy_log_pool`; similar to confident learning, Northcutt et al. 2021, arXiv 1911.00068). Each
clip is scored by a pool and a transition fitted on other folds.

As in any stacking, the votes on clips of other folds come from models that saw this clip's given label. One parameter
per source and class is too few to leak the label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.combining import combine_votes
from ecmf_pipeline.labels.config import LabelModelConfig
from ecmf_pipeline.labels.votes import ABSTAIN, LogPool, first_choice, fit_noisy_log_pool, stack_votes

GIVEN = "given label"
"""Name of the given label as a source, whose reliability is measured like that of any other source."""

VOTE_FLOOR = 1e-3
"""Probabilities are clipped to at least this value, because no single source may rule a label in or out."""


@dataclass(frozen=True, slots=True)
class Source:
    """Coverage, agreement, accuracy and weight of one source.

    Attributes:
        name: Name of the source.
        coverage: Share of the clips on which it votes.
        agreement: Share of its votes that equal the given label, over labelled clips; NaN if there are none.
        accuracy: Expected share of its votes that are correct under the posterior; NaN if it never votes.
        weight: Its weight in the pool.
    """

    name: str
    coverage: float
    agreement: float
    accuracy: float
    weight: float


@dataclass(frozen=True)
class Assessment:
    """Result of the label model on n clips with K labels.

    Attributes:
        votes: Hard votes of each source, (n,); `ABSTAIN` for abstentions.
        probs: P(true label | votes), (n, K), without the clip's own given label.
        posterior: P(true label | votes, given label), (n, K); equals ``probs`` for clips without a given label.
        transition: Estimated P(given label | true label), (K, K); rows are true labels.
        sources: One entry per source, in input order.
        calibrated: Whether the probabilities were fitted to gold labels. Given labels do not suffice.
        held_out: The posterior, (n, K), with gold clips predicted without their gold label; None without gold labels.
    """

    votes: dict[str, Ints]
    probs: Floats
    posterior: Floats
    transition: Floats
    sources: tuple[Source, ...]
    calibrated: bool = False
    held_out: Floats | None = None

    @cached_property
    def labels(self) -> Ints:
        """Most probable label under the posterior, (n,)."""
        labels: Ints = self.posterior.argmax(axis=1).astype(np.int64)
        return labels

    @cached_property
    def confidence(self) -> Floats:
        """Posterior probability of `labels`, (n,)."""
        highest: Floats = self.posterior.max(axis=1, initial=0.0)
        return highest

    @cached_property
    def agreement(self) -> Floats:
        """Share of the voting sources that vote for `labels`, (n,); NaN if all abstain."""
        hard_votes = np.stack(list(self.votes.values()), axis=1)  # (n, S)
        voting = (hard_votes != ABSTAIN).sum(axis=1)
        agreeing = (hard_votes == self.labels[:, None]).sum(axis=1)
        shares: Floats = np.divide(agreeing, voting, out=np.full(len(hard_votes), np.nan), where=voting > 0)
        return shares


def assess(
    votes: Mapping[str, NDArray[np.floating]],
    given: Ints,
    gold: Ints,
    *,
    folds: Ints,
    seed: int,
    config: LabelModelConfig,
) -> Assessment:
    """Estimate the posterior from votes, given labels and gold labels.

    With enough gold labels, the given label is one more source, and its reliability is measured. Otherwise its noise is
    estimated from the votes (`assess_labels`).

    Args:
        votes: Out-of-fold probabilities by source, (n, K) each; a row of NaN is an abstention.
        given: Given labels, (n,); -1 if there is none.
        gold: Labels known to be correct, (n,); -1 if unknown.
        folds: Fold of each labelled clip, (n,).
        seed: Seed of the folds of gold clips.
        config: Priors of the label model.
    """
    without_gold = assess_labels(votes, given, folds=folds, config=config)
    gold_clips = np.flatnonzero(gold >= 0)
    if not len(gold_clips):
        return without_gold
    classes = without_gold.probs.shape[1]
    given_votes = np.where((given >= 0)[:, None], np.eye(classes)[given], np.nan)
    with_given = combine_votes({**votes, GIVEN: given_votes}, gold, seed=seed)
    if not with_given.calibrated:
        posterior = without_gold.posterior.copy()
        posterior[gold_clips] = np.eye(classes)[gold[gold_clips]]
        return replace(without_gold, posterior=posterior)
    without_given = combine_votes(votes, gold, seed=seed)
    return Assessment(
        without_gold.votes,
        probs=without_given.held_out,
        # A blend fitted with given labels is not calibrated on clips without one.
        posterior=np.where((given >= 0)[:, None], with_given.probs, without_given.probs),
        transition=with_given.sources[-1].confusion,
        sources=tuple(
            Source(report.name, report.coverage, source.agreement, report.reliability, source.weight)
            for report, source in zip(with_given.sources, without_gold.sources, strict=False)  # all but the given label
        ),
        calibrated=True,
        held_out=with_given.held_out,
    )


def assess_labels(
    votes: Mapping[str, NDArray[np.floating]],
    given: NDArray[np.integer],
    *,
    folds: NDArray[np.integer],
    config: LabelModelConfig,
) -> Assessment:
    """Estimate the posterior from votes and given labels, without gold labels.

    Args:
        votes: Probabilities by source, (n, K) each; a row of NaN is an abstention. They must be out of fold, because a
            source that saw a clip's given label repeats it.
        given: Given labels, (n,); -1 if there is none.
        folds: Fold of each labelled clip, (n,); ignored for other clips.
        config: Priors of the label model.

    Raises:
        ValueError: If shapes differ, a row is neither a distribution nor all NaN, or there is no source.
    """
    evidence = stack_votes(votes, floor=VOTE_FLOOR).logs  # (n, S, K)
    given_labels: Ints = np.asarray(given, np.int64)
    labelled = given_labels >= 0
    if given_labels.shape != evidence.shape[:1] or given_labels.max(initial=-1) >= evidence.shape[2]:
        raise ValueError(f"given labels {given_labels.shape} do not match votes of shape (n, S, K) = {evidence.shape}")
    # The optimiser's vectors are short: on a busy machine, synchronising BLAS threads takes ten times the computation.
    with threadpool_limits(limits=1, user_api="blas"):
        full_pool = _Pool.fit(evidence[labelled], given_labels[labelled], config)
        probs = full_pool.probs(evidence)
        posterior = probs.copy()
        for fold in np.unique(folds[labelled]):
            held_out = labelled & (folds == fold)
            training = labelled & (folds != fold)
            pool = _Pool.fit(evidence[training], given_labels[training], config)
            probs[held_out] = pool.probs(evidence[held_out])
            joint_probs = probs[held_out] * pool.transition[:, given_labels[held_out]].T
            posterior[held_out] = joint_probs / joint_probs.sum(axis=1, keepdims=True)
    first_choices = {name: first_choice(rows) for name, rows in votes.items()}
    sources = tuple(
        _source_summary(name, first_choices[name], given_labels, posterior, weight)
        for name, weight in zip(votes, full_pool.pool.weights.tolist(), strict=True)
    )
    return Assessment(first_choices, probs=probs, posterior=posterior, transition=full_pool.transition, sources=sources)


@dataclass(frozen=True, slots=True)
class _Pool:
    """A fitted pool, the class prior (K,) for clips without votes, and the noise transition (K, K)."""

    pool: LogPool
    prior: Floats
    transition: Floats

    @classmethod
    def fit(cls, evidence: Floats, given: Ints, config: LabelModelConfig) -> _Pool:
        """Fit to given labels, (n,), all known, and evidence (n, S, K)."""
        counts = np.bincount(given, minlength=evidence.shape[2]) + 1.0
        prior = counts / counts.sum()
        pool, transition = fit_noisy_log_pool(evidence, given, config, bias=np.log(prior))
        return cls(pool, prior, transition)

    def probs(self, evidence: Floats) -> Floats:
        """Return P(true label | votes), (n, K), for evidence (n, S, K); the prior if all sources abstain."""
        probs: Floats = softmax(self.pool.scores(evidence), axis=1)
        probs[~evidence.any(axis=(1, 2))] = self.prior
        return probs


def _source_summary(name: str, hard_votes: Ints, given: Ints, posterior: Floats, weight: float) -> Source:
    voted = np.flatnonzero(hard_votes != ABSTAIN)
    compared = voted[given[voted] >= 0]
    return Source(
        name=name,
        coverage=len(voted) / len(hard_votes) if len(hard_votes) else 0.0,
        agreement=float(np.mean(hard_votes[compared] == given[compared])) if len(compared) else float("nan"),
        accuracy=float(np.mean(posterior[voted, hard_votes[voted]])) if len(voted) else float("nan"),
        weight=weight,
    )
