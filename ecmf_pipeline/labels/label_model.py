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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from ecmf_pipeline.core.arrays import Bools, Floats, Ints
from ecmf_pipeline.labels.combining import combine_votes
from ecmf_pipeline.labels.config import LabelModelConfig
from ecmf_pipeline.labels.votes import ABSTAIN, LogPool, first_choice, fit_noisy_log_pool, stack_votes

GIVEN = "given label"
"""Name of the given label as a source, whose reliability is measured like that of any other source."""

_SMALLEST = np.finfo(np.float64).tiny

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


@dataclass(frozen=True, slots=True)
class LogOdds:
    """Log-odds of one label against another on n clips, as the sum of three parts, (n,) each.

    Attributes:
        prior: Log-odds before any vote: the frequency of the labels, corrected by the fitted class biases.
        given: Change by the given label; 0 without one.
        sources: Change by the votes of all sources; 0 without votes.
    """

    prior: Floats
    given: Floats
    sources: Floats

    @property
    def total(self) -> Floats:
        """Log-odds under the posterior, (n,)."""
        return self.prior + self.given + self.sources


@dataclass(frozen=True)
class Assessment:
    """Result of the label model on n clips with K labels.

    Attributes:
        votes: Hard votes of each source, (n,); `ABSTAIN` for abstentions.
        prior: P(true label), (n, K), before the votes and the given label.
        probs: P(true label | votes), (n, K), without the clip's own given label.
        posterior: P(true label | votes, given label), (n, K); equals ``probs`` for clips without a given label.
        transition: Estimated P(given label | true label), (K, K); rows are true labels.
        sources: One entry per source, in input order.
        calibrated: Whether the probabilities were fitted to gold labels. Given labels do not suffice.
        held_out: The posterior, (n, K), with gold clips predicted without their gold label; None without gold labels.
    """

    votes: dict[str, Ints]
    prior: Floats
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
    def n_voting(self) -> Ints:
        """Number of sources that vote, (n,)."""
        return self._count(lambda votes: votes != ABSTAIN)

    def n_votes_for(self, labels: Ints) -> Ints:
        """Return the number of sources that vote for ``labels``, (n,), a label of each clip."""
        return self._count(lambda votes: votes == labels)

    def _count(self, counted: Callable[[Ints], Bools]) -> Ints:
        total = np.zeros(len(self.posterior), np.int64)
        for hard_votes in self.votes.values():
            total += counted(hard_votes)
        return total

    def log_odds(self, labels: Ints, rivals: Ints) -> LogOdds:
        """Split the log-odds of ``labels`` against ``rivals``, (n,) each, into their parts.

        The label model is a log-linear pool followed by the noise transition, so its parts are the bias, the
        transition, and the weighted votes. If it is calibrated, the parts of the votes and of the given label are the
        changes of the log-odds when they are added. Labels that a person confirmed have no parts.
        """
        rows = np.arange(len(labels))
        prior, with_sources, posterior = (
            np.log(np.maximum(probs[rows, labels], _SMALLEST)) - np.log(np.maximum(probs[rows, rivals], _SMALLEST))
            for probs in (self.prior, self.probs, self.posterior)
        )
        return LogOdds(prior, given=posterior - with_sources, sources=with_sources - prior)


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
    counts = np.bincount(gold[gold_clips], minlength=classes) + 1.0
    return Assessment(
        without_gold.votes,
        prior=np.tile(counts / counts.sum(), (len(gold), 1)),
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
        prior, probs = full_pool.prior_probs(evidence), full_pool.probs(evidence)
        posterior = probs.copy()
        for fold in np.unique(folds[labelled]):
            held_out = labelled & (folds == fold)
            training = labelled & (folds != fold)
            pool = _Pool.fit(evidence[training], given_labels[training], config)
            prior[held_out], probs[held_out] = pool.prior_probs(evidence[held_out]), pool.probs(evidence[held_out])
            joint_probs = probs[held_out] * pool.transition[:, given_labels[held_out]].T
            posterior[held_out] = joint_probs / joint_probs.sum(axis=1, keepdims=True)
    first_choices = {name: first_choice(rows) for name, rows in votes.items()}
    sources = tuple(
        _source_summary(name, first_choices[name], given_labels, posterior, weight)
        for name, weight in zip(votes, full_pool.pool.weights.tolist(), strict=True)
    )
    return Assessment(first_choices, prior, probs, posterior, full_pool.transition, sources)


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
        return self._with_prior(softmax(self.pool.scores(evidence), axis=1), evidence)

    def prior_probs(self, evidence: Floats) -> Floats:
        """Return P(true label) before the votes, (n, K): the biases; the prior if all sources abstain."""
        return self._with_prior(np.tile(softmax(self.pool.bias), (len(evidence), 1)), evidence)

    def _with_prior(self, probs: Floats, evidence: Floats) -> Floats:
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
