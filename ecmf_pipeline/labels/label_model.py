"""One posterior over the true label from many sources that are weak, correlated and may abstain.

The votes are pooled log-linearly: every source has one weight, every class one bias, few enough numbers to learn from
a hundred clips. Learning all weights together is what keeps correlated sources from counting twice (naive Bayes, which
multiplies them, ends up overconfident). The given labels that the pool learns from may be wrong, so it is fitted
through a noise transition (`votes.fit_noisy_log_pool`; for the use made of it, confident learning, Northcutt et al.
2021, arXiv 1911.00068). A clip is always scored by a pool and a transition that were fitted on other folds.

The votes of other folds' clips come from models that knew this clip's given label, as in all stacking. With one number
a source and a class that leaves no room to pass the label on.
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
from ecmf_pipeline.labels.votes import ABSTAIN, LogPool, evidence_of, first_choice, fit_noisy_log_pool

GIVEN = "given label"
"""The given label as a source: what it is worth is measured like any other's."""

FLOOR = 1e-3
"""Votes are clipped here: no single source may rule a label out, or in."""


@dataclass(frozen=True, slots=True)
class Source:
    """How one source of votes fares.

    Attributes:
        name: Its name.
        coverage: Share of the clips it votes on.
        agreement: Share of its votes that equal the given label, over labelled clips; NaN where it has none.
        accuracy: Expected share of its votes that are right, under the posterior; NaN where it never votes.
        weight: Its weight in the pool.
    """

    name: str
    coverage: float
    agreement: float
    accuracy: float
    weight: float


@dataclass(frozen=True)
class Assessment:
    """What votes and given labels together say of n clips and K labels.

    Attributes:
        votes: Each source's first choice, (n,), `ABSTAIN` where it has none.
        probs: P(true label | votes), (n, K); the clip's own given label has no part in it.
        posterior: P(true label | votes, given label), (n, K); equals ``probs`` where there is no given label.
        transition: Estimated P(given label | true label), (K, K), rows are true labels.
        sources: One entry a source, in the order they were handed in.
        calibrated: Whether the probabilities were fitted to gold labels. Given labels cannot do that.
        held_out: The posterior, (n, K), in which a gold clip is judged without its gold label; None without gold.
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
        """The posterior's first choice, (n,)."""
        labels: Ints = self.posterior.argmax(axis=1).astype(np.int64)
        return labels

    @cached_property
    def confidence(self) -> Floats:
        """The posterior of `labels`, (n,)."""
        highest: Floats = self.posterior.max(axis=1, initial=0.0)
        return highest

    @cached_property
    def agreement(self) -> Floats:
        """Share of the voting sources that vote for `labels`, (n,); NaN where all abstain."""
        cast = np.stack(list(self.votes.values()), axis=1)  # (n, S)
        voting = (cast != ABSTAIN).sum(axis=1)
        agreeing = (cast == self.labels[:, None]).sum(axis=1)
        shares: Floats = np.divide(agreeing, voting, out=np.full(len(cast), np.nan), where=voting > 0)
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
    """Weigh votes, given labels and gold ones.

    With enough gold labels the given label is one more source, and its reliability is measured. With fewer, how noisy
    the given labels are is estimated from the votes (`assess_labels`).

    Args:
        votes: Probabilities by source, (n, K) each, out of fold; a row that is all NaN abstains.
        given: Given labels, (n,), -1 where there is none.
        gold: Labels that a person vouches for, (n,), -1 where unknown.
        folds: The fold of each labelled clip, (n,).
        seed: Seed of the folds that gold clips are split into.
        config: What to believe before seeing votes.
    """
    blind = assess_labels(votes, given, folds=folds, config=config)
    known = np.flatnonzero(gold >= 0)
    if not len(known):
        return blind
    classes = blind.probs.shape[1]
    own = np.where((given >= 0)[:, None], np.eye(classes)[given], np.nan)
    combined = combine_votes({**votes, GIVEN: own}, gold, seed=seed)
    if not combined.calibrated:
        posterior = blind.posterior.copy()
        posterior[known] = np.eye(classes)[gold[known]]
        return replace(blind, posterior=posterior)
    unaided = combine_votes(votes, gold, seed=seed)
    return Assessment(
        blind.votes,
        probs=unaided.held_out,
        # Where there is no given label, a blend that was fitted with one is not calibrated.
        posterior=np.where((given >= 0)[:, None], combined.probs, unaided.probs),
        transition=combined.sources[-1].confusion,
        sources=tuple(
            Source(report.name, report.coverage, known_as.agreement, report.reliability, known_as.weight)
            for report, known_as in zip(combined.sources, blind.sources, strict=False)  # all but the given label
        ),
        calibrated=True,
        held_out=combined.held_out,
    )


def assess_labels(
    votes: Mapping[str, NDArray[np.floating]],
    given: NDArray[np.integer],
    *,
    folds: NDArray[np.integer],
    config: LabelModelConfig,
) -> Assessment:
    """Weigh given labels against the votes of several sources, where no label is known to be right.

    Args:
        votes: Probabilities by source, (n, K) each; a row that is all NaN abstains. They must be out of fold: a source
            that has seen a clip's given label repeats it.
        given: Given labels, (n,), -1 where there is none.
        folds: The fold of each labelled clip, (n,), anything elsewhere.
        config: What to believe before seeing votes.

    Raises:
        ValueError: When shapes differ, a row is neither a distribution nor all NaN, or there is no source.
    """
    evidence = evidence_of(votes, floor=FLOOR).logs  # (n, S, K)
    known: Ints = np.asarray(given, np.int64)
    labelled = known >= 0
    if known.shape != evidence.shape[:1] or known.max(initial=-1) >= evidence.shape[2]:
        raise ValueError(f"given labels {known.shape} do not fit votes of (n, S, K) = {evidence.shape}")
    # The optimiser's vectors are short: on a busy machine waiting for BLAS threads costs ten times the work itself.
    with threadpool_limits(limits=1, user_api="blas"):
        whole = _Pool.fit(evidence[labelled], known[labelled], config)
        probs = whole.probs(evidence)
        posterior = probs.copy()
        for fold in np.unique(folds[labelled]):
            held_out = labelled & (folds == fold)
            training = labelled & (folds != fold)
            pool = _Pool.fit(evidence[training], known[training], config)
            probs[held_out] = pool.probs(evidence[held_out])
            joint = probs[held_out] * pool.transition[:, known[held_out]].T
            posterior[held_out] = joint / joint.sum(axis=1, keepdims=True)
    cast = {name: first_choice(rows) for name, rows in votes.items()}
    sources = tuple(
        _source(name, cast[name], known, posterior, weight)
        for name, weight in zip(votes, whole.pool.weights.tolist(), strict=True)
    )
    return Assessment(cast, probs=probs, posterior=posterior, transition=whole.transition, sources=sources)


@dataclass(frozen=True, slots=True)
class _Pool:
    """A fitted pool, the class prior (K,) that it falls back on, and the noise transition (K, K)."""

    pool: LogPool
    prior: Floats
    transition: Floats

    @classmethod
    def fit(cls, evidence: Floats, given: Ints, config: LabelModelConfig) -> _Pool:
        """Fit to given labels, (n,), all of them known, by evidence (n, S, K)."""
        counts = np.bincount(given, minlength=evidence.shape[2]) + 1.0
        prior = counts / counts.sum()
        pool, transition = fit_noisy_log_pool(evidence, given, config, bias=np.log(prior))
        return cls(pool, prior, transition)

    def probs(self, evidence: Floats) -> Floats:
        """P(true label | votes), (n, K), of evidence (n, S, K); the prior where all sources abstain."""
        probs: Floats = softmax(self.pool.scores(evidence), axis=1)
        probs[~evidence.any(axis=(1, 2))] = self.prior
        return probs


def _source(name: str, ballot: Ints, given: Ints, posterior: Floats, weight: float) -> Source:
    voted = np.flatnonzero(ballot != ABSTAIN)
    compared = voted[given[voted] >= 0]
    return Source(
        name=name,
        coverage=len(voted) / len(ballot) if len(ballot) else 0.0,
        agreement=float(np.mean(ballot[compared] == given[compared])) if len(compared) else float("nan"),
        accuracy=float(np.mean(posterior[voted, ballot[voted]])) if len(voted) else float("nan"),
        weight=weight,
    )
