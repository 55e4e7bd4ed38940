"""Temperature of the LLM's votes, fitted on labelled clips that are not those it is applied to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

LEAST_LABELLED = 30
"""Fewer scored clips with a label say too little; the temperature is then 1."""

_LOWEST, _HIGHEST = 0.05, 20.0


def fit_temperature(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature under which the labels are likeliest; the choice of each clip stays what it is.

    Source: Guo et al. 2017, arXiv 1706.04599.

    Args:
        scores: Log-scores, (n, K); rows of NaN are passed over.
        labels: Index of each clip's label, (n,); -1 where it has none.

    Returns:
        A temperature of 0.05 to 20; 1 where fewer than `LEAST_LABELLED` clips have both scores and a label.
    """
    usable = (labels >= 0) & np.isfinite(scores).all(axis=1)
    if usable.sum() < LEAST_LABELLED:
        return 1.0
    some, truth = scores[usable], labels[usable]

    def loss(log_temperature: float) -> float:
        scaled = some / np.exp(log_temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        likelihood = scaled[np.arange(len(truth)), truth] - np.log(np.exp(scaled).sum(axis=1))
        return float(-likelihood.mean())

    found = minimize_scalar(loss, bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded")
    return float(np.exp(found.x))


def held_out_temperatures(
    scores: NDArray[np.float64], labels: NDArray[np.int64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The temperature for each clip, (n, 1), fitted on the labelled clips of the other folds alone.

    Args:
        scores: Log-scores, (n, K).
        labels: Index of each clip's given label, (n,); -1 where it has none.
        folds: Fold of each clip, (n,); no group stands in two.
    """
    temperatures = np.ones((len(scores), 1))
    for fold in np.unique(folds):
        temperatures[folds == fold] = fit_temperature(scores[folds != fold], labels[folds != fold])
    return temperatures
