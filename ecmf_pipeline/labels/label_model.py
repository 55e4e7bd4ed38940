"""One posterior over the true label from many sources that are weak, correlated and may abstain.

The votes are pooled log-linearly: every source has one weight, every class one bias, few enough numbers to learn from
a hundred clips. Learning all weights together is what keeps correlated sources from counting twice (naive Bayes, which
multiplies them, ends up overconfident). The given labels that the pool learns from may be wrong, so it is fitted
through a noise transition, true label to given label (Patrini et al. 2017, arXiv 1609.03683; for the use made of it,
confident learning, Northcutt et al. 2021, arXiv 1911.00068), under a logistic-normal prior: one noise rate for all, and
deviations of each pair of classes. A clip is always scored by a pool and a transition that were fitted on other folds.

The votes of other folds' clips come from models that knew this clip's given label, as in all stacking. With one number
a source and a class that leaves no room to pass the label on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.config import LabelModelConfig
from ecmf_pipeline.labels.votes import ABSTAIN, evidence_of, first_choice

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


@dataclass(frozen=True, slots=True)
class Assessment:
    """What votes and given labels together say of n clips and K labels.

    Attributes:
        probs: P(true label | votes), (n, K); the clip's own given label has no part in it.
        posterior: P(true label | votes, given label), (n, K); equals ``probs`` where there is no given label.
        labels: The posterior's first choice, (n,).
        confidence: The posterior of ``labels``, (n,).
        agreement: Share of the voting sources that vote for ``labels``, (n,); NaN where all abstain.
        votes: Each source's first choice, (n,), `ABSTAIN` where it has none.
        transition: Estimated P(given label | true label), (K, K), rows are true labels.
        sources: One entry a source, in the order they were handed in.
        calibrated: Whether the probabilities were fitted to gold labels. Given labels cannot do that.
        held_out: The posterior, (n, K), in which a gold clip is judged without its gold label; None without gold.
    """

    probs: Floats
    posterior: Floats
    labels: Ints
    confidence: Floats
    agreement: Floats
    votes: dict[str, Ints]
    transition: Floats
    sources: tuple[Source, ...]
    calibrated: bool = False
    held_out: Floats | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """A fitted log-linear pool: source weights (S,), class bias (K,), class prior (K,), noise transition (K, K)."""

    weights: Floats
    bias: Floats
    prior: Floats
    transition: Floats

    def probs(self, evidence: Floats) -> Floats:
        """P(true label | votes), (n, K), of evidence (n, S, K); the prior where all sources abstain."""
        probs = _softmax(np.log(self.prior) + self.bias + np.einsum("nsk,s->nk", evidence, self.weights))
        probs[~evidence.any(axis=(1, 2))] = self.prior
        return probs


def assess_labels(
    votes: Mapping[str, NDArray[np.floating]],
    given: NDArray[np.integer],
    *,
    folds: NDArray[np.integer] | None = None,
    seed: int = 0,
    config: LabelModelConfig | None = None,
) -> Assessment:
    """Weigh given labels against the votes of several sources, where no label is known to be right.

    Args:
        votes: Probabilities by source, (n, K) each; a row that is all NaN abstains. They must be out of fold: a source
            that has seen a clip's given label repeats it.
        given: Given labels, (n,), -1 where there is none.
        folds: The fold of each labelled clip, (n,), anything elsewhere. Without it five random folds are drawn.
        seed: Seed of the random folds; unused when ``folds`` is handed in.
        config: What to believe before seeing votes.

    Raises:
        ValueError: When shapes differ, a row is neither a distribution nor all NaN, or there is no source.
    """
    config = config or LabelModelConfig()
    evidence = evidence_of(votes, floor=FLOOR).logs  # (n, S, K)
    known: Ints = np.asarray(given, np.int64)
    labelled = known >= 0
    if known.shape != evidence.shape[:1] or known.max(initial=-1) >= evidence.shape[2]:
        raise ValueError(f"given labels {known.shape} do not fit votes of (n, S, K) = {evidence.shape}")
    if folds is None:
        folds = np.random.default_rng(seed).permutation(len(known)) % 5
    # The optimiser's vectors are short: on a busy machine waiting for BLAS threads costs ten times the work itself.
    with threadpool_limits(limits=1, user_api="blas"):
        whole = fit_pool(evidence[labelled], known[labelled], config)
        probs = whole.probs(evidence)
        posterior = probs.copy()
        for fold in np.unique(folds[labelled]):
            held_out = labelled & (folds == fold)
            training = labelled & (folds != fold)
            pool = fit_pool(evidence[training], known[training], config)
            probs[held_out] = pool.probs(evidence[held_out])
            posterior[held_out] = _normalised(probs[held_out] * pool.transition[:, known[held_out]].T)
    return _combined(votes, known, probs, posterior, whole)


def fit_pool(evidence: Floats, given: Ints, config: LabelModelConfig) -> Pool:
    """Fit the pool and the noise transition to given labels: the maximum of their joint posterior.

    How noisy the labels are shows in how the votes' say saturates: where all sources agree firmly and one label in six
    still differs, the label is at fault. Expectation-maximisation finds the same optimum but crawls away from a
    transition near the identity, so the marginal likelihood is climbed directly.

    Args:
        evidence: Centred log-votes, (n, S, K), 0 where a source abstains.
        given: Given labels, (n,); all of them known.
        config: The priors.
    """
    sources, classes = evidence.shape[1:]
    counts = np.bincount(given, minlength=classes) + 1.0
    prior = counts / counts.sum()
    expected = np.concatenate(
        [
            np.full(sources, config.source_weight / sources),
            np.zeros(classes),
            [np.log((1 - config.noise) * max(classes - 1, 1) / config.noise)],
            np.zeros(classes * classes),
        ]
    )
    spread = np.repeat(
        [config.source_spread, config.bias_spread, config.noise_spread, config.transition_spread],
        [sources, classes, 1, classes * classes],
    )
    lowest = [(0.0, None)] * sources + [(None, None)] * (len(expected) - sources)  # no source is worse than none
    found = minimize(
        _loss,
        expected,
        args=(evidence, given, np.log(prior), expected, spread),
        jac=True,
        method="L-BFGS-B",
        bounds=lowest,
        options={"maxiter": config.rounds},
    ).x
    weights, bias, transition = _unpacked(found, sources, classes)
    return Pool(weights, bias, prior, transition)


def _loss(
    parameters: Floats, evidence: Floats, given: Ints, log_prior: Floats, expected: Floats, spread: Floats
) -> tuple[float, Floats]:
    """Negative log posterior of the parameters, and its gradient."""
    sources, classes = evidence.shape[1:]
    weights, bias, transition = _unpacked(parameters, sources, classes)
    probs = _softmax(log_prior + bias + np.einsum("nsk,s->nk", evidence, weights))  # (n, K)
    joint = probs * transition[:, given].T  # P(true, given | votes), (n, K)
    likelihood = joint.sum(axis=1)
    truth = joint / likelihood[:, None]  # P(true | votes, given), (n, K)
    counts = np.einsum("ny,ng->yg", truth, np.eye(classes)[given])  # expected clips by true and given label
    pull = transition * counts.sum(axis=1, keepdims=True) - counts
    deviation = (parameters - expected) / spread
    slope = np.concatenate(
        [
            np.einsum("nsk,nk->s", evidence, probs - truth),
            (probs - truth).sum(axis=0),
            [np.trace(pull)],
            pull.ravel(),
        ]
    )
    return float(np.sum(deviation**2) / 2 - np.log(likelihood).sum()), slope + deviation / spread


def _unpacked(parameters: Floats, sources: int, classes: int) -> tuple[Floats, Floats, Floats]:
    """Source weights (S,), class bias (K,), noise transition (K, K): a common diagonal plus deviations, softmaxed."""
    weights, bias = parameters[:sources], parameters[sources : sources + classes]
    diagonal, deviations = parameters[sources + classes], parameters[sources + classes + 1 :]
    return weights, bias, _softmax(diagonal * np.eye(classes) + deviations.reshape(classes, classes))


def _combined(
    votes: Mapping[str, NDArray[np.floating]], given: Ints, probs: Floats, posterior: Floats, pool: Pool
) -> Assessment:
    labels = posterior.argmax(axis=1).astype(np.int64)
    ballots = {name: first_choice(rows) for name, rows in votes.items()}
    cast = np.stack(list(ballots.values()), axis=1)  # (n, S)
    voting = (cast != ABSTAIN).sum(axis=1)
    agreeing = (cast == labels[:, None]).sum(axis=1)
    agreement = np.divide(agreeing, voting, out=np.full(len(given), np.nan), where=voting > 0)
    sources = tuple(
        _source(name, ballots[name], given, posterior, weight)
        for name, weight in zip(votes, pool.weights.tolist(), strict=True)
    )
    confidence = posterior.max(axis=1, initial=0.0)
    return Assessment(probs, posterior, labels, confidence, agreement, ballots, pool.transition, sources)


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


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return _normalised(powers)


def _normalised(rows: Floats) -> Floats:
    normalised: Floats = rows / rows.sum(axis=1, keepdims=True)
    return normalised
