"""Calibration of the LLM's votes: what its label scores amount to, fitted on labelled clips of other folds.

A temperature says how far the scores are to be believed at all; a bias for each label says how much more often it is
meant than the model would have it. The model leans to some words whatever it reads; texts without content tell only a
part of that, and nothing of how often a corpus has each label.

Sources: Guo et al. 2017, arXiv 1706.04599 (temperature, and the bias of its vector scaling); Zhao et al. 2021, arXiv
2102.09690, and Zhou et al. 2023, arXiv 2309.17249 (the lean of a language model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_LABELLED = 30
"""Fewer scored clips with a label say too little; the scores are then left as they are."""

TEMPERATURE_SPREAD = 0.3
"""Standard deviation of the logarithm of the temperature around 0, before a label is seen."""

BIAS_SPREAD = 0.5
"""Standard deviation of each label's bias around 0, before a label is seen: few labels move it little.

Both were chosen on MELD's train and dev parts. With 1 and 1, thirty labels made the log-loss as much better, but one
draw of them in twenty cost 0.12 of weighted F1; with these it costs 0.01 (`tools.bench.meld` measures it).
"""

_LOWEST, _HIGHEST = 0.05, 20.0


@dataclass(frozen=True, slots=True)
class LabelCalibration:
    """What is done to the scores before they become probabilities.

    Attributes:
        temperature: Divides them.
        bias: Is then added to each label's, (K,); its mean is 0.
        labelled: How many labelled clips it was fitted on; 0 where it was not fitted.
    """

    temperature: float
    bias: Floats
    labelled: int = 0

    def __call__(self, scores: Floats) -> Floats:
        """Log-scores, (n, K), whose softmax are the calibrated probabilities; rows of NaN stay NaN.

        Args:
            scores: Log-scores, (n, K).
        """
        return scores / self.temperature + self.bias


def fit_calibration(
    scores: Floats, labels: Ints, *, temperature: float | None = None, bias: bool = True
) -> LabelCalibration:
    """The temperature and bias under which the labels are likeliest, given what is expected of them beforehand.

    Args:
        scores: Log-scores, (n, K); rows of NaN are passed over.
        labels: Index of each clip's label, (n,); -1 where it has none.
        temperature: Is kept as it is; None: fitted, from 0.05 to 20.
        bias: Whether each label has a bias; without, the choice of each clip stays what it is.

    Returns:
        The calibration; ``temperature`` (1 for None) and no bias where fewer than `LEAST_LABELLED` clips have both
        scores and a label.
    """
    classes = scores.shape[1]
    usable = (labels >= 0) & np.isfinite(scores).all(axis=1)
    if usable.sum() < LEAST_LABELLED or (temperature is not None and not bias):
        return LabelCalibration(1.0 if temperature is None else temperature, np.zeros(classes))
    some, truth = scores[usable], labels[usable]
    rows = np.arange(len(truth))

    def loss(parameters: Floats) -> tuple[float, Floats]:
        """Negative log-posterior and its gradient; parameters: log-temperature, then the biases, (1 + K,)."""
        scaled = some * np.exp(-parameters[0])
        logits = scaled + parameters[1:]  # (m, K)
        logits = logits - logits.max(axis=1, keepdims=True)
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        error = np.exp(log_probs)
        error[rows, truth] -= 1.0
        gradient = np.concatenate([[-(error * scaled).sum()], error.sum(axis=0)])
        spread = np.array([TEMPERATURE_SPREAD, *[BIAS_SPREAD] * classes])
        prior = parameters / spread**2
        return float(-log_probs[rows, truth].sum() + 0.5 * (parameters * prior).sum()), gradient + prior

    fixed = None if temperature is None else float(np.log(temperature))
    first = (np.log(_LOWEST), np.log(_HIGHEST)) if fixed is None else (fixed, fixed)
    bounds = [first, *[(None, None) if bias else (0.0, 0.0)] * classes]
    start = np.zeros(1 + classes)
    start[0] = fixed or 0.0
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return LabelCalibration(float(np.exp(found[0])), found[1:] - found[1:].mean(), int(usable.sum()))


def held_out_calibrations(
    scores: Floats, labels: Ints, folds: Ints, *, temperature: float | None = None, bias: bool = True
) -> tuple[Floats, Sequence[LabelCalibration]]:
    """The calibrated log-scores of each clip, (n, K), fitted on the labelled clips of the other folds alone.

    Args:
        scores: Log-scores, (n, K).
        labels: Index of each clip's given label, (n,); -1 where it has none.
        folds: Fold of each clip, (n,); no group stands in two.
        temperature: As `fit_calibration` has it.
        bias: As `fit_calibration` has it.

    Returns:
        The log-scores, and the calibration of each fold.
    """
    values, fitted = np.full_like(scores, np.nan), []
    for fold in np.unique(folds):
        inside = folds == fold
        fitted.append(fit_calibration(scores[~inside], labels[~inside], temperature=temperature, bias=bias))
        values[inside] = fitted[-1](scores[inside])
    return values, fitted
