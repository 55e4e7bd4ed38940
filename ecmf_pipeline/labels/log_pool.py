"""Log-linear pool of opinions: one weight a source, one bias a class.

The pool is fitted by L-BFGS-B to the maximum of a posterior: normal priors on all parameters, and the cross-entropy
with what is known of the truth. Truth may be known as probabilities (`fit_log_pool`), or through labels of which some
are wrong (`fit_noisy_log_pool`). Then a transition from true to given label is fitted along (Patrini et al. 2017, arXiv
1609.03683), under a logistic-normal prior: one noise rate for all, and deviations of each pair of classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.config import LabelModelConfig


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

    prior = Prior.of((np.full(sources, total / sources), weight_spread), (bias, bias_spread))
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
    prior = Prior.of(
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


@dataclass(frozen=True, slots=True)
class Prior:
    """Normal prior of parameters: their expected values, (p,), and standard deviations, (p,)."""

    mean: Floats
    spread: Floats

    @classmethod
    def of(cls, *parts: tuple[Floats, float]) -> Prior:
        """The prior of several groups of parameters: the expected values of each group, and its deviation."""
        means, spreads = zip(*parts, strict=True)
        return cls(np.concatenate(means), np.repeat(spreads, [len(mean) for mean in means]))


def most_probable(
    likelihood: Callable[[Floats], tuple[float, Floats]], prior: Prior, *, weights: int, steps: int
) -> Floats:
    """The parameters of the highest posterior, of a log-likelihood given with the slope of its negative."""

    def loss(parameters: Floats) -> tuple[float, Floats]:
        logs, slope = likelihood(parameters)
        deviation = (parameters - prior.mean) / prior.spread
        return float((deviation**2).sum() / 2 - logs), slope + deviation / prior.spread

    bounds = [(0.0, None)] * weights + [(None, None)] * (len(prior.mean) - weights)  # no opinion is worse than none
    found: Floats = minimize(loss, prior.mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}).x
    return found


def _slope(opinions: Floats, wrong: Floats) -> Floats:
    """Slope of the negative log-likelihood in weights and biases, (M + K,), where probabilities are off by (n, K)."""
    return np.concatenate([np.einsum("nmk,nk->m", opinions, wrong), wrong.sum(axis=0)])
