"""Calibration of an ensemble by temperature scaling (Guo et al. 2017), with a factor for each missing modality.

A clip without a modality is predicted by the branches that remain. These are overconfident if the models rely on the
missing one: on RAVDESS without the face, the calibration error is 0.17 with one temperature for all clips, and 0.02
with a factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecmf_pipeline.fusion.prediction import ALL_MEMBERS, Ensemble, Prediction

MIN_CLIPS = 20
"""Minimum number of clips to fit temperatures; with fewer, probabilities are not calibrated."""

TEMPERATURE_BOUNDS = (0.2, 5.0)
"""Bounds of a temperature, and of the factor of a missing modality."""

TEMPERATURE_PRIOR = 2.0
"""Strength of the prior that pulls log-temperatures and log-factors towards 0, in clips (a standard deviation of 0.5).

It prevents overconfidence if a few dozen clips happen to be all correct.
"""

HIDDEN_CLIPS = 2_000
"""Maximum number of clips from which each modality is hidden to fit its factor."""


def calibrate(
    ensemble: Ensemble,
    features: Mapping[str, NDArray[np.float32]],
    masks: Mapping[str, NDArray[np.bool_]],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64],
    folds: NDArray[np.int64],
) -> Ensemble:
    """Return the ensemble with temperatures and factors fitted to its out-of-fold predictions.

    The fit for a clip never uses its own label. It uses out-of-fold probabilities of the other folds, whose models may
    have been trained on that label. Through the temperature the label can slightly change the confidence of the clip,
    but never its most likely label.

    Args:
        ensemble: The models, without temperatures.
        features: Features of the held-out clips, (n, D) or (n, T, D) each.
        masks: See `Ensemble.predict`.
        labels: Class indices, (n,).
        weights: Sample weights, (n,).
        folds: The fold of each clip, (n,).
    """
    parts = [ensemble.predict(features, folds, masks)]
    rows = [np.arange(len(labels))]
    if len(features) > 1:
        chosen = np.random.default_rng(ensemble.training.seed).permutation(len(labels))[:HIDDEN_CLIPS]
        for prediction, kept in _hide_each(ensemble, features, masks, folds, np.sort(chosen)):
            parts.append(prediction)
            rows.append(kept)
    row = np.concatenate(rows)
    probs = np.concatenate([part.probs for part in parts])
    absent = np.concatenate([part.modality_weights == 0 for part in parts])  # also true if the models ignore it
    fitted = temperatures_by_fold(probs, labels[row], weights[row], folds[row], absent)
    branches = {
        name: {
            fold: float(values[0])
            for fold, values in temperatures_by_fold(
                parts[0].branch_probs[:, index], labels, weights, folds, np.zeros((len(labels), 0), dtype=np.bool_)
            ).items()
        }
        for index, name in enumerate(ensemble.modalities)
    }
    return replace(
        ensemble,
        temperatures={fold: float(values[0]) for fold, values in fitted.items()},
        missing_factors={
            name: {fold: float(values[1 + index]) for fold, values in fitted.items()}
            for index, name in enumerate(ensemble.modalities)
        },
        branch_temperatures=branches if ensemble.has_single_models else {},
    )


def _hide_each(
    ensemble: Ensemble,
    features: Mapping[str, NDArray[np.float32]],
    masks: Mapping[str, NDArray[np.bool_]],
    folds: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> Iterator[tuple[Prediction, NDArray[np.int64]]]:
    """Yield the predictions of some clips without each modality, and the rows of the clips that had it."""
    chosen = {name: values[rows] for name, values in features.items()}
    chosen_masks = {name: values[rows] for name, values in masks.items()}
    for name, values in chosen.items():
        present = np.isfinite(values).any(axis=tuple(range(1, values.ndim))) & chosen_masks.get(name, True)
        kept = np.flatnonzero(present)
        if not len(kept):
            continue
        hidden = {other: mask[kept] for other, mask in chosen_masks.items()} | {name: np.zeros(len(kept), np.bool_)}
        inputs = {other: table[kept] for other, table in chosen.items()}
        yield ensemble.predict(inputs, folds[rows[kept]], hidden), rows[kept]


def temperatures_by_fold(
    probs: NDArray[np.float32],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64],
    folds: NDArray[np.int64],
    absent: NDArray[np.bool_],
) -> dict[int, NDArray[np.float64]]:
    """Fit temperatures for each fold, on the clips of the other folds, and for all other clips; see `fit_temperatures`.

    Args:
        probs: Out-of-fold probabilities, (n, C); rows of NaN are ignored.
        labels: Class indices, (n,).
        weights: Sample weights, (n,).
        folds: The fold of each clip, (n,).
        absent: Whether a clip lacks a modality, (n, M).

    Returns:
        The temperature and the factors of each fold, (1 + M,), and under `ALL_MEMBERS` those of clips without a fold.
    """
    known = ~np.isnan(probs[:, 0])
    fit_rows = {ALL_MEMBERS: known} | {int(fold): known & (folds != fold) for fold in np.unique(folds)}
    return {
        fold: fit_temperatures(probs[rows], labels[rows], weights[rows], absent[rows])
        for fold, rows in fit_rows.items()
    }


def fit_temperatures(
    probs: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64], absent: ArrayLike
) -> NDArray[np.float64]:
    """Return the temperature and the factor of each missing modality of the lowest penalised log-likelihood.

    The temperature of a clip is the first value, multiplied by the factors of the modalities that it lacks.

    Args:
        probs: Probabilities, (n, C).
        labels: Class indices, (n,).
        weights: Sample weights, (n,).
        absent: Whether a clip lacks a modality, (n, M).

    Returns:
        The temperature, then the factors, (1 + M,); all 1.0 for fewer than `MIN_CLIPS` clips.
    """
    from scipy.optimize import minimize

    clips = len(labels)
    design = np.hstack([np.ones((clips, 1)), np.asarray(absent, dtype=np.float64)])  # (n, 1 + M)
    if clips < MIN_CLIPS:
        return np.ones(design.shape[1])
    logs = np.log(np.maximum(probs.astype(np.float64), 1e-12))  # (n, C)
    shares = weights / weights.sum()
    true_logs = logs[np.arange(clips), labels]

    def loss(log_temperatures: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        inverse = np.exp(-design @ log_temperatures)  # (n,)
        scaled = logs * inverse[:, None]
        normaliser = np.logaddexp.reduce(scaled, axis=1)
        expected_logs = (np.exp(scaled - normaliser[:, None]) * logs).sum(axis=1)
        value = shares @ (normaliser - true_logs * inverse)
        gradient = design.T @ (shares * inverse * (true_logs - expected_logs))
        prior = TEMPERATURE_PRIOR / clips * log_temperatures
        return float(value + prior @ log_temperatures), gradient + 2 * prior

    bounds = [tuple(np.log(TEMPERATURE_BOUNDS))] * design.shape[1]
    optimum = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds)
    fitted: NDArray[np.float64] = np.exp(optimum.x)
    return fitted
