"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599): probabilities that mean what they say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_CLIPS = 20
"""With fewer, a temperature would be a guess: probabilities are left as they are."""

BOUNDS = (0.2, 5.0)

PRIOR = 2.0
"""Pull of the log-temperature towards 0, in clips (a standard deviation of 0.5): where a few dozen happen to be all
right, they are no proof of certainty."""

EVERYONE = -1
"""The key of the temperature for clips that no fold held out."""


def held_out_temperatures(
    probs: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64], folds: NDArray[np.int64]
) -> dict[int, float]:
    """One temperature for each fold, fitted on the clips of the other folds; and one for all other clips.

    So the fit never looks at a clip's own label. What it looks at, the other folds' probabilities, is of models that
    may have learned from that label: through the temperature it moves how certain the clip's probabilities are a
    little, and never which label is likeliest.

    Args:
        probs: Out-of-fold probabilities, (n, C); rows of NaN do not count.
        labels: Class indices, (n,).
        weights: How much each clip counts, (n,).
        folds: The fold of each clip, (n,).
    """
    known = ~np.isnan(probs[:, 0])
    chosen = {EVERYONE: known} | {int(fold): known & (folds != fold) for fold in np.unique(folds)}
    return {fold: temperature(probs[rows], labels[rows], weights[rows]) for fold, rows in chosen.items()}


def temperature(probs: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    """The temperature of the lowest weighted negative log-likelihood, within `BOUNDS`; 1.0 for too few clips."""
    from scipy.optimize import minimize_scalar

    if len(probs) < LEAST_CLIPS:
        return 1.0
    logs = np.log(np.maximum(probs.astype(np.float64), 1e-12))  # (n, C)

    def loss(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        likelihood = scaled[np.arange(len(labels)), labels] - np.logaddexp.reduce(scaled, axis=1)
        return PRIOR / len(labels) * log_temperature**2 - float(np.average(likelihood, weights=weights))

    found = minimize_scalar(loss, bounds=tuple(np.log(BOUNDS)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def cooled(probs: NDArray[np.float64], temperatures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (n, C) at the temperature of each clip, (n,); rows of NaN stay so."""
    with np.errstate(divide="ignore"):
        scaled = np.log(probs) / temperatures[:, None]
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    cool: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return cool
