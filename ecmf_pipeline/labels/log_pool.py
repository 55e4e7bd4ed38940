"""Log-linear pools: opinions multiplied, each to the power of its weight (Genest and Zidek 1986)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LogPool:
    """One weight an opinion, (M,), none below zero, and one bias a class, (K,)."""

    weights: Floats
    bias: Floats

    def log_probs(self, opinions: Floats) -> Floats:
        """Log-probabilities, (n, K), of log-opinions (n, M, K)."""
        pooled: Floats = log_softmax(self.bias + np.einsum("nmk,m->nk", opinions, self.weights), axis=1)
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
    sources, classes = opinions.shape[1:]
    expected = np.concatenate([np.full(sources, total / sources), bias])
    spread = np.repeat([weight_spread, bias_spread], [sources, classes])

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scores = parameters[sources:] + np.einsum("nmk,m->nk", opinions, parameters[:sources])
        logs = log_softmax(scores, axis=1)
        wrong = np.exp(logs) - target  # (n, K), both rows sum to 1
        deviation = (parameters - expected) / spread
        slope = np.concatenate([np.einsum("nmk,nk->m", opinions, wrong), wrong.sum(axis=0)])
        return float((deviation**2).sum() / 2 - (logs * target).sum()), slope + deviation / spread

    bounds = [(0.0, None)] * sources + [(None, None)] * classes  # no opinion is worse than none
    found = minimize(loss, expected, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 100}).x
    return LogPool(found[:sources], found[sources:])
