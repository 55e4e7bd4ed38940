"""Represent votes of several sources, pool them log-linearly, and measure each source.

A log-linear pool has one weight per source and one bias per class. L-BFGS-B fits it to the maximum of the posterior:
normal priors on all parameters, and the cross-entropy with the known truth. The truth is either given as probabilities
(`fit_log_pool`) or as labels of which some are wrong (`fit_noisy_log_pool`). In the second case a transition matrix
from true to given labels is fitted at the same time (Patrini et al. 2017, arXiv 1609.03683). Its prior is
logistic-normal: one noise rate for all classes, and a deviation for each pair of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, log_softmax, softmax

from ecmf_pipeline.core.arrays import Floats, Ints, ShortRepr
from ecmf_pipeline.labels.config import LabelModelConfig

_BLOCK = 65_536
"""Clips of one block."""

ABSTAIN = -1
"""Index of an abstention, in place of a class index."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Votes of S sources on n clips with K labels.

    Attributes:
        logs: Centred log-probabilities, (n, S, K); zeros if the source abstains.
        hard_votes: Hard votes, (n, S): the most probable label, or `ABSTAIN`.
    """

    logs: Floats
    hard_votes: Ints

    @property
    def all_abstain(self) -> NDArray[np.bool_]:
        """Whether all sources abstain, (n,)."""
        all_abstain: NDArray[np.bool_] = (self.hard_votes == ABSTAIN).all(axis=1)
        return all_abstain


def stack_votes(votes: Mapping[str, NDArray[np.floating]], *, floor: float) -> Evidence:
    """Check and stack the votes of all sources.

    Args:
        votes: Probabilities by source, (n, K) each; a row of NaN is an abstention.
        floor: Probabilities are clipped to at least this value, because no single source may rule a label in or out.

    Raises:
        ValueError: If there is no source, shapes differ, or a row is neither a distribution nor all NaN.
    """
    if not votes:
        raise ValueError("no source of votes")
    shapes = {np.shape(probs) for probs in votes.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"votes must all have the same shape (n, K), not {sorted(shapes)}")
    clips, classes = next(iter(shapes))
    logs, hard_votes = np.empty((clips, len(votes), classes)), np.empty((clips, len(votes)), np.int64)
    for source, named_probs in enumerate(votes.values()):  # one after the other, which needs less memory
        probs = np.asarray(named_probs, np.float64)
        hard_votes[:, source] = first_choice(probs)
        abstains = hard_votes[:, source] == ABSTAIN
        voting = probs[~abstains]
        if not (np.all(voting >= 0) and np.allclose(voting.sum(axis=1), 1.0, atol=1e-3)):
            raise ValueError("each vote must be a distribution over the labels, or all NaN")
        of_source = np.log(np.clip(probs, floor, 1.0))
        of_source -= of_source.mean(axis=1, keepdims=True)
        of_source[abstains] = 0.0
        logs[:, source] = of_source
    return Evidence(logs, hard_votes)


def blocks(clips: int) -> Iterator[slice]:
    """Yield slices of consecutive clips, for computations whose intermediate arrays would be large."""
    for start in range(0, max(clips, 1), _BLOCK):
        yield slice(start, start + _BLOCK)


def first_choice(probs: NDArray[np.floating]) -> Ints:
    """Return the most probable label of each row of probs (n, K), (n,); `ABSTAIN` for rows of NaN."""
    abstains = np.isnan(probs).all(axis=1)
    choice = np.where(abstains[:, None], 0.0, probs).argmax(axis=1)
    return np.where(abstains, ABSTAIN, choice).astype(np.int64)


@dataclass(frozen=True, slots=True, repr=False)
class SourceReport(ShortRepr):
    """Coverage, reliability, confusion and error correlations of one source.

    Attributes:
        name: Name of the source.
        coverage: Share of the clips on which it votes.
        votes: Number of votes compared with gold labels. Without gold labels, votes are compared with the combined
            votes, which overestimates sources that make the same errors.
        reliability: Share of these votes that are correct; NaN if there are none.
        reliability_interval: 95% interval of the reliability (Jeffreys).
        confusion: P(vote | truth), (K true, K voted), shrunk towards equal shares by one vote per row.
        confusion_low: Lower end of its 95% intervals, (K, K).
        confusion_high: Upper end of its 95% intervals, (K, K).
        error_correlation: Correlation of its errors with those of each source, by name. 1: both err on the same clips;
            0: they err independently; NaN: they share no votes, or one of them never (or always) errs.
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
    names: Sequence[str], hard_votes: Ints, truth: Floats, judged: NDArray[np.bool_]
) -> tuple[SourceReport, ...]:
    """Compare the hard votes of each source with the truth on some of the clips.

    Args:
        names: Names of the S sources.
        hard_votes: Hard votes, (n, S).
        truth: Probabilities of the true label, (n, K).
        judged: Clips to compare, (n,).
    """
    classes = truth.shape[1]
    chosen, known_truth = hard_votes[judged], truth[judged]  # (m, S), (m, K)
    voting = chosen != ABSTAIN  # (m, S)
    correlation = error_correlations(chosen, known_truth)
    reports = []
    for index, name in enumerate(names):
        counts = known_truth[voting[:, index]].T @ np.eye(classes)[chosen[voting[:, index], index]]  # (K, K)
        total = counts.sum(axis=1, keepdims=True)
        n_right, votes = float(np.trace(counts)), float(counts.sum())
        low, high = betaincinv(n_right + 0.5, votes - n_right + 0.5, [0.025, 0.975])
        shares = (counts + 1 / classes) / (total + 1.0)
        remainder = total + 1.0 - (counts + 1 / classes) if classes > 1 else np.full((1, 1), 1e-9)
        reports.append(
            SourceReport(
                name=name,
                coverage=float((hard_votes[:, index] != ABSTAIN).mean()) if len(hard_votes) else 0.0,
                votes=int(voting[:, index].sum()),
                reliability=n_right / votes if votes else float("nan"),
                reliability_interval=(float(low), float(high)),
                confusion=shares,
                confusion_low=betaincinv(counts + 1 / classes, remainder, 0.025),
                confusion_high=betaincinv(counts + 1 / classes, remainder, 0.975),
                error_correlation=dict(zip(names, correlation[index].tolist(), strict=True)),
            )
        )
    return tuple(reports)


def error_correlations(hard_votes: Ints, truth: Floats) -> Floats:
    """Return the correlations of the sources' errors, (S, S); NaN if undefined.

    Each correlation is computed over the clips on which both sources vote.

    Args:
        hard_votes: Hard votes, (n, S).
        truth: Probabilities of the true label, (n, K).
    """
    voting = hard_votes != ABSTAIN
    vote_probability = truth[np.arange(len(truth))[:, None], np.where(voting, hard_votes, 0)]
    error = np.where(voting, 1.0 - vote_probability, 0.0)  # (n, S) expected errors
    has_vote = voting.astype(np.float64)
    shared = has_vote.T @ has_vote
    n_shared = np.where(shared > 0, shared, 1.0)
    own_error = (error.T @ has_vote) / n_shared  # (S, S) error rate of the row's source on clips of both
    joint_error = (error.T @ error) / n_shared
    # An expected error of 0.3 is a Bernoulli variable with that mean, so its second moment is 0.3 too.
    np.fill_diagonal(joint_error, np.diag(own_error))
    covariance = joint_error - own_error * own_error.T
    variance = own_error * (1 - own_error)
    scale = np.sqrt(variance * variance.T)
    usable = (shared > 1) & (scale > 1e-12)
    correlations: Floats = np.divide(covariance, scale, out=np.full_like(covariance, np.nan), where=usable)
    return correlations


@dataclass(frozen=True, slots=True)
class LogPool:
    """One non-negative weight per opinion, (M,), and one bias per class, (K,)."""

    weights: Floats
    bias: Floats

    def scores(self, opinions: Floats) -> Floats:
        """Return unnormalised log-probabilities, (n, K), for log-opinions (n, M, K)."""
        scores: Floats = self.bias + np.einsum("nmk,m->nk", opinions, self.weights)
        return scores

    def log_probs(self, opinions: Floats) -> Floats:
        """Return log-probabilities, (n, K), for log-opinions (n, M, K)."""
        pooled: Floats = log_softmax(self.scores(opinions), axis=1)
        return pooled


def fit_log_pool(
    opinions: Floats, target: Floats, *, total: float, weight_spread: float, bias: Floats, bias_spread: float
) -> LogPool:
    """Fit weights and biases to known labels by maximum a posteriori.

    Args:
        opinions: Log-opinions, (n, M, K).
        target: Probabilities of the true label, (n, K); one-hot if it is known.
        total: Prior mean of the sum of all weights; 1 is the geometric mean of the opinions.
        weight_spread: Standard deviation of each weight around its share of ``total``.
        bias: Prior mean of the class biases, (K,).
        bias_spread: Standard deviation of each bias around its mean.
    """
    sources = opinions.shape[1]

    def likelihood(parameters: Floats) -> tuple[float, Floats]:
        logs = LogPool(parameters[:sources], parameters[sources:]).log_probs(opinions)
        return (logs * target).sum(), _gradient(opinions, np.exp(logs) - target)

    prior = ((np.full(sources, total / sources), weight_spread), (bias, bias_spread))
    parameters = maximise_posterior(likelihood, prior, weights=sources, steps=100)
    return LogPool(parameters[:sources], parameters[sources:])


def fit_noisy_log_pool(
    opinions: Floats, given: Ints, config: LabelModelConfig, *, bias: Floats
) -> tuple[LogPool, Floats]:
    """Fit a pool and a noise transition to given labels, some of which are wrong.

    The noise rate is visible in the saturation of the votes: if all sources agree firmly and one label in six still
    differs, that label is wrong. The marginal likelihood is maximised directly. Expectation-maximisation reaches the
    same optimum, but converges slowly from a transition near the identity.

    Args:
        opinions: Log-opinions, (n, M, K).
        given: Given labels, (n,), without unknown ones.
        config: Parameters of the priors.
        bias: Prior mean of the class biases, (K,).

    Returns:
        The pool, and P(given label | true label), (K, K); rows are true labels.
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
    return likelihood.unpack(maximise_posterior(likelihood, prior, weights=sources, steps=config.rounds))


@dataclass(frozen=True, slots=True)
class NoisyLikelihood:
    """Likelihood of noisy given labels, (n,), for opinions (n, M, K) and prior mean biases (K,).

    The parameter vector, (M + K + 1 + K * K,), holds the weights, the deviations of the biases from their prior mean,
    the log-odds of a correct given label, and the deviation of each class pair from these log-odds.
    """

    opinions: Floats
    given: Ints
    bias: Floats

    def unpack(self, parameters: Floats) -> tuple[LogPool, Floats]:
        """Return the pool and the transition from true to given labels, (K, K)."""
        sources, classes = self.opinions.shape[1:]
        log_odds, deviations = parameters[sources + classes], parameters[sources + classes + 1 :]
        transition: Floats = softmax(log_odds * np.eye(classes) + deviations.reshape(classes, classes), axis=1)
        return LogPool(parameters[:sources], self.bias + parameters[sources : sources + classes]), transition

    def __call__(self, parameters: Floats) -> tuple[float, Floats]:
        """Return the log-likelihood and the gradient of its negative."""
        pool, transition = self.unpack(parameters)
        probs = softmax(pool.scores(self.opinions), axis=1)  # (n, K)
        joint = probs * transition[:, self.given].T  # P(true, given | votes), (n, K)
        given_probs = joint.sum(axis=1)
        truth = joint / given_probs[:, None]  # P(true | votes, given), (n, K)
        counts = np.einsum("ny,ng->yg", truth, np.eye(len(transition))[self.given])  # expected clips by true and given
        transition_gradient = transition * counts.sum(axis=1, keepdims=True) - counts
        gradient = np.concatenate(
            [_gradient(self.opinions, probs - truth), [np.trace(transition_gradient)], transition_gradient.ravel()]
        )
        return np.log(given_probs).sum(), gradient


def maximise_posterior(
    likelihood: Callable[[Floats], tuple[float, Floats]],
    prior: Sequence[tuple[Floats, float]],
    *,
    weights: int,
    steps: int,
) -> Floats:
    """Return the parameters with the highest posterior.

    Args:
        likelihood: Function that returns the log-likelihood and the gradient of its negative.
        prior: Means and standard deviation of the normal prior of each group of parameters.
        weights: Number of leading parameters that are bounded below by zero.
        steps: Upper bound of the optimiser's iterations.
    """
    group_means, group_spreads = zip(*prior, strict=True)
    mean, spread = np.concatenate(group_means), np.repeat(group_spreads, [len(values) for values in group_means])

    def loss(parameters: Floats) -> tuple[float, Floats]:
        logs, gradient = likelihood(parameters)
        deviation = (parameters - mean) / spread
        return float((deviation**2).sum() / 2 - logs), gradient + deviation / spread

    bounds = [(0.0, None)] * weights + [(None, None)] * (len(mean) - weights)  # no inverted opinions
    from scipy.optimize import minimize

    optimum: Floats = minimize(loss, mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}).x
    return optimum


def _gradient(opinions: Floats, wrong: Floats) -> Floats:
    """Return the gradient of the negative log-likelihood, (M + K,), for residuals (n, K) of the probabilities."""
    return np.concatenate([np.einsum("nmk,nk->m", opinions, wrong), wrong.sum(axis=0)])
