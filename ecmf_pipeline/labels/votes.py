"""Votes of several sources: as evidence, pooled, and how each source fares.

A log-linear pool has one weight a source and one bias a class. It is fitted by L-BFGS-B to the maximum of a posterior:
normal priors on all parameters, and the cross-entropy with what is known of the truth. Truth may be known as
probabilities (`fit_log_pool`), or through labels of which some are wrong (`fit_noisy_log_pool`). Then a transition from
true to given label is fitted along (Patrini et al. 2017, arXiv 1609.03683), under a logistic-normal prior: one noise
rate for all, and deviations of each pair of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import beta

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.config import LabelModelConfig

ABSTAIN = -1
"""The vote of a source that has no opinion of a clip."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What S sources say of n clips and K labels.

    Attributes:
        logs: Centred log-probabilities, (n, S, K): zero, which says nothing, where a source abstains.
        cast: First choices, (n, S), `ABSTAIN` where there is none.
    """

    logs: Floats
    cast: Ints

    @property
    def silent(self) -> NDArray[np.bool_]:
        """Whether all sources abstain, (n,)."""
        silent: NDArray[np.bool_] = (self.cast == ABSTAIN).all(axis=1)
        return silent


def evidence_of(votes: Mapping[str, NDArray[np.floating]], *, floor: float) -> Evidence:
    """Check the votes of all sources and bring them together.

    Args:
        votes: Probabilities by source, (n, K) each; a row that is all NaN abstains.
        floor: Probabilities are clipped here: no single source may rule a label out, or in.

    Raises:
        ValueError: When there is no source, shapes differ, or a row is neither a distribution nor all NaN.
    """
    if not votes:
        raise ValueError("there is no source of votes")
    shapes = {np.shape(probs) for probs in votes.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"votes must all be (n, K), not {sorted(shapes)}")
    stacked = np.stack([np.asarray(probs, np.float64) for probs in votes.values()], axis=1)
    silent = np.asarray(np.isnan(stacked).all(axis=2))  # (n, S)
    voting = stacked[~silent]
    if not (np.all(voting >= 0) and np.allclose(voting.sum(axis=1), 1.0, atol=1e-3)):
        raise ValueError("a vote must be a distribution over the labels, or all NaN")
    logs = np.log(np.clip(stacked, floor, 1.0))
    logs -= logs.mean(axis=2, keepdims=True)
    logs[silent] = 0.0
    cast = np.where(silent, ABSTAIN, np.where(silent[:, :, None], 0.0, stacked).argmax(axis=2))
    return Evidence(logs, cast.astype(np.int64))


def first_choice(probs: NDArray[np.floating]) -> Ints:
    """The label each row of probs (n, K) favours, (n,); `ABSTAIN` where the row is all NaN."""
    silent = np.isnan(probs).all(axis=1)
    choice = np.where(silent[:, None], 0.0, probs).argmax(axis=1)
    return np.where(silent, ABSTAIN, choice).astype(np.int64)


@dataclass(frozen=True, slots=True)
class SourceReport:
    """How one source fares.

    Attributes:
        name: Its name.
        coverage: Share of the clips it votes on.
        votes: How many votes are compared, with gold labels, or with what all sources together say, where there are no
            gold labels (which flatters sources that err together).
        reliability: Share of them that are right; NaN where there are none.
        reliability_interval: Its 95% interval (Jeffreys).
        confusion: P(vote | truth), (K true, K voted), shrunk towards equal shares by one vote a row.
        confusion_low: Lower end of its 95% intervals, (K, K).
        confusion_high: Upper end, (K, K).
        error_correlation: Correlation of its errors with each source's, by name: 1 errs where this one does, 0 errs
            independently; NaN where they share no votes, or one of them never (or always) errs.
    """

    name: str
    coverage: float
    votes: int
    reliability: float
    reliability_interval: tuple[float, float]
    confusion: Floats
    confusion_low: Floats
    confusion_high: Floats
    error_correlation: dict[str, float]


def report_sources(
    names: Sequence[str], cast: Ints, truth: Floats, judged: NDArray[np.bool_]
) -> tuple[SourceReport, ...]:
    """Compare every source's votes, (n, S), with probabilities of the truth, (n, K), on the judged clips, (n,)."""
    classes = truth.shape[1]
    chosen, known = cast[judged], truth[judged]  # (m, S), (m, K)
    voting = chosen != ABSTAIN  # (m, S)
    correlation = error_correlations(chosen, known)
    reports = []
    for index, name in enumerate(names):
        counts = known[voting[:, index]].T @ np.eye(classes)[chosen[voting[:, index], index]]  # (K, K)
        total = counts.sum(axis=1, keepdims=True)
        right, votes = float(np.trace(counts)), float(counts.sum())
        low, high = beta.ppf([0.025, 0.975], right + 0.5, votes - right + 0.5)
        share = (counts + 1 / classes) / (total + 1.0)
        others = total + 1.0 - (counts + 1 / classes) if classes > 1 else np.full((1, 1), 1e-9)
        reports.append(
            SourceReport(
                name=name,
                coverage=float((cast[:, index] != ABSTAIN).mean()) if len(cast) else 0.0,
                votes=int(voting[:, index].sum()),
                reliability=right / votes if votes else float("nan"),
                reliability_interval=(float(low), float(high)),
                confusion=share,
                confusion_low=beta.ppf(0.025, counts + 1 / classes, others),
                confusion_high=beta.ppf(0.975, counts + 1 / classes, others),
                error_correlation=dict(zip(names, correlation[index].tolist(), strict=True)),
            )
        )
    return tuple(reports)


def error_correlations(cast: Ints, truth: Floats) -> Floats:
    """Correlations of the sources' errors, (S, S), each over the clips that both vote on; NaN where it is unknown.

    Of votes, (n, S), and probabilities of the truth, (n, K).
    """
    voting = cast != ABSTAIN
    chosen = truth[np.arange(len(truth))[:, None], np.where(voting, cast, 0)]
    error = np.where(voting, 1.0 - chosen, 0.0)  # (n, S) expected errors
    ballots = voting.astype(np.float64)
    shared = ballots.T @ ballots
    least = np.where(shared > 0, shared, 1.0)
    mine = (error.T @ ballots) / least  # (S, S) error of the row's source where the column's votes too
    both = (error.T @ error) / least
    # An expected error of 0.3 is a coin, not a third of an error: its variance is that of the coin.
    np.fill_diagonal(both, np.diag(mine))
    covariance = both - mine * mine.T
    variance = mine * (1 - mine)
    scale = np.sqrt(variance * variance.T)
    usable = (shared > 1) & (scale > 1e-12)
    correlations: Floats = np.divide(covariance, scale, out=np.full_like(covariance, np.nan), where=usable)
    return correlations


@dataclass(frozen=True, slots=True)
class LogPool:
    """One weight an opinion, (M,), none below zero, and one bias a class, (K,)."""

    weights: Floats
    bias: Floats

    def scores(self, opinions: Floats) -> Floats:
        """Unnormalised log-probabilities, (n, K), of log-opinions (n, M, K)."""
        scores: Floats = self.bias + np.einsum("nmk,m->nk", opinions, self.weights)
        return scores

    def log_probs(self, opinions: Floats) -> Floats:
        """Log-probabilities, (n, K), of log-opinions (n, M, K)."""
        pooled: Floats = log_softmax(self.scores(opinions), axis=1)
        return pooled


def fit_log_pool(
    opinions: Floats, target: Floats, *, total: float, weight_spread: float, bias: Floats, bias_spread: float
) -> LogPool:
    """The weights and biases that are most probable given what is known of the truth.

    Args:
        opinions: Log-opinions, (n, M, K).
        target: Probabilities of the truth, (n, K), one-hot where it is known.
        total: What all weights together are expected to be: 1 is the opinions' geometric mean.
        weight_spread: Standard deviation of a weight around its share of that.
        bias: What the class biases are expected to be, (K,).
        bias_spread: Standard deviation of a bias around that.
    """
    sources = opinions.shape[1]

    def likelihood(parameters: Floats) -> tuple[float, Floats]:
        logs = LogPool(parameters[:sources], parameters[sources:]).log_probs(opinions)
        return (logs * target).sum(), _slope(opinions, np.exp(logs) - target)

    prior = ((np.full(sources, total / sources), weight_spread), (bias, bias_spread))
    found = most_probable(likelihood, prior, weights=sources, steps=100)
    return LogPool(found[:sources], found[sources:])


def fit_noisy_log_pool(
    opinions: Floats, given: Ints, config: LabelModelConfig, *, bias: Floats
) -> tuple[LogPool, Floats]:
    """The pool, and the noise transition, that are most probable given labels of which some are wrong.

    How noisy the labels are shows in how the votes' say saturates: where all sources agree firmly and one label in six
    still differs, the label is at fault. Expectation-maximisation finds the same optimum but crawls away from a
    transition near the identity, so the marginal likelihood is climbed directly.

    Args:
        opinions: Log-opinions, (n, M, K).
        given: Given labels, (n,); all of them known.
        config: The priors.
        bias: What the class biases are expected to be, (K,).

    Returns:
        The pool, and P(given label | true label), (K, K), rows are true labels.
    """
    sources, classes = opinions.shape[1:]
    log_odds = np.log((1 - config.noise) * max(classes - 1, 1) / config.noise)
    prior = (
        (np.full(sources, config.source_weight / sources), config.source_spread),
        (np.zeros(classes), config.bias_spread),
        (np.array([log_odds]), config.noise_spread),
        (np.zeros(classes * classes), config.transition_spread),
    )
    likelihood = NoisyLikelihood(opinions, given, bias)
    return likelihood.unpacked(most_probable(likelihood, prior, weights=sources, steps=config.rounds))


@dataclass(frozen=True, slots=True)
class NoisyLikelihood:
    """Likelihood of given labels, (n,), of which some are wrong, by opinions, (n, M, K), and expected biases, (K,).

    Its parameters are the weights, the deviations of the biases from what is expected, the log-odds of a right given
    label, and each class pair's deviation from those, (M + K + 1 + K * K,).
    """

    opinions: Floats
    given: Ints
    bias: Floats

    def unpacked(self, parameters: Floats) -> tuple[LogPool, Floats]:
        """The pool, and the transition from true to given label, (K, K)."""
        sources, classes = self.opinions.shape[1:]
        log_odds, deviations = parameters[sources + classes], parameters[sources + classes + 1 :]
        transition: Floats = softmax(log_odds * np.eye(classes) + deviations.reshape(classes, classes), axis=1)
        return LogPool(parameters[:sources], self.bias + parameters[sources : sources + classes]), transition

    def __call__(self, parameters: Floats) -> tuple[float, Floats]:
        """The log-likelihood, and the slope of its negative."""
        pool, transition = self.unpacked(parameters)
        probs = softmax(pool.scores(self.opinions), axis=1)  # (n, K)
        joint = probs * transition[:, self.given].T  # P(true, given | votes), (n, K)
        of_given = joint.sum(axis=1)
        truth = joint / of_given[:, None]  # P(true | votes, given), (n, K)
        counts = np.einsum("ny,ng->yg", truth, np.eye(len(transition))[self.given])  # expected clips by true and given
        pull = transition * counts.sum(axis=1, keepdims=True) - counts
        slope = np.concatenate([_slope(self.opinions, probs - truth), [np.trace(pull)], pull.ravel()])
        return np.log(of_given).sum(), slope


def most_probable(
    likelihood: Callable[[Floats], tuple[float, Floats]],
    prior: Sequence[tuple[Floats, float]],
    *,
    weights: int,
    steps: int,
) -> Floats:
    """The parameters of the highest posterior, of a log-likelihood given with the slope of its negative.

    The prior is normal: of each group of parameters, the expected values and their standard deviation. The first
    parameters are ``weights`` weights.
    """
    means, spreads = zip(*prior, strict=True)
    mean, spread = np.concatenate(means), np.repeat(spreads, [len(values) for values in means])

    def loss(parameters: Floats) -> tuple[float, Floats]:
        logs, slope = likelihood(parameters)
        deviation = (parameters - mean) / spread
        return float((deviation**2).sum() / 2 - logs), slope + deviation / spread

    bounds = [(0.0, None)] * weights + [(None, None)] * (len(mean) - weights)  # no opinion is worse than none
    found: Floats = minimize(loss, mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}).x
    return found


def _slope(opinions: Floats, wrong: Floats) -> Floats:
    """Slope of the negative log-likelihood in weights and biases, (M + K,), where probabilities are off by (n, K)."""
    return np.concatenate([np.einsum("nmk,nk->m", opinions, wrong), wrong.sum(axis=0)])
