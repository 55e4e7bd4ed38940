"""Calibration of an ensemble by temperature scaling (Guo et al. 2017), missing modalities and wrong labels included.

A clip without a modality is predicted by the branches that remain. These are overconfident if the models rely on the
missing one. The temperature of such a clip therefore has a factor for each missing modality.

If a share of the labels is wrong, no prediction can be more often right than the others are, however clear the clip.
Calibrated probabilities therefore are a mixture of the scaled ones and of a uniform share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecmf_pipeline.fusion.prediction import ALL_MEMBERS, Ensemble, Prediction

MIN_CLIPS = 20
"""Minimum number of predictions to fit temperatures; with fewer, probabilities are not calibrated.

A clip counts once, and once more for each modality that is hidden from it.
"""

TEMPERATURE_BOUNDS = (0.2, 5.0)
"""Bounds of a temperature, and of the factor of a missing modality."""

TEMPERATURE_PRIOR = 2.0
"""Strength of the prior that pulls log-temperatures and log-factors towards 0, in clips (a standard deviation of 0.5).

It prevents overconfidence if a few dozen clips happen to be all correct.
"""

UNIFORM_SCALE, UNIFORM_BOUND = 0.1, 0.5
"""Scale of the prior of the uniform share (a standard deviation of 0.05), and its maximum."""

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
                parts[0].branch_probs[:, index],
                labels,
                weights,
                folds,
                np.zeros((len(labels), 0), dtype=np.bool_),
                mixed=False,
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
        uniform_shares={fold: float(values[-1]) for fold, values in fitted.items()},
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
    *,
    mixed: bool = True,
) -> dict[int, NDArray[np.float64]]:
    """Fit temperatures for each fold, on the clips of the other folds, and for all other clips; see `fit_temperatures`.

    Args:
        probs: Out-of-fold probabilities, (n, C); rows of NaN are ignored.
        labels: Class indices, (n,).
        weights: Sample weights, (n,).
        folds: The fold of each clip, (n,).
        absent: Whether a clip lacks a modality, (n, M).
        mixed: See `fit_temperatures`.

    Returns:
        The result of `fit_temperatures` for each fold, (2 + M,), and under `ALL_MEMBERS` that of clips without a fold.
    """
    known = ~np.isnan(probs[:, 0])
    fit_rows = {ALL_MEMBERS: known} | {int(fold): known & (folds != fold) for fold in np.unique(folds)}
    return {
        fold: fit_temperatures(probs[rows], labels[rows], weights[rows], absent[rows], mixed=mixed)
        for fold, rows in fit_rows.items()
    }


def fit_temperatures(
    probs: NDArray[np.float32],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64],
    absent: ArrayLike,
    *,
    mixed: bool = True,
) -> NDArray[np.float64]:
    """Return the temperature, the factors and the uniform share of the highest penalised log-likelihood.

    The temperature of a clip is the first value, multiplied by the factors of the modalities that it lacks.

    Args:
        probs: Probabilities, (n, C).
        labels: Class indices, (n,).
        weights: Sample weights, (n,).
        absent: Whether a clip lacks a modality, (n, M).
        mixed: Whether to fit the uniform share, which is 0 otherwise.

    Returns:
        The temperature, then the factors, then the uniform share, (2 + M,); 1.0 and 0.0 for fewer than `MIN_CLIPS`
        rows.
    """
    from scipy.optimize import minimize

    clips, n_classes = probs.shape
    design = np.hstack([np.ones((clips, 1)), np.asarray(absent, dtype=np.float64)])  # (n, 1 + M)
    count = design.shape[1]
    if clips < MIN_CLIPS:
        return np.append(np.ones(count), 0.0)
    logs = np.log(np.maximum(probs.astype(np.float64), 1e-12))  # (n, C)
    shares = weights / weights.sum()
    true_logs = logs[np.arange(clips), labels]

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        uniform = parameters[-1] * UNIFORM_SCALE
        inverse = np.exp(-design @ parameters[:-1])  # (n,)
        scaled = logs * inverse[:, None]
        scaled -= np.logaddexp.reduce(scaled, axis=1)[:, None]
        sharp = np.exp(scaled)  # (n, C)
        true_sharp = sharp[np.arange(clips), labels]
        true = (1 - uniform) * true_sharp + uniform / n_classes
        slope = (1 - uniform) * true_sharp * inverse * (true_logs - (sharp * logs).sum(axis=1)) / true
        gradient = np.append(
            design.T @ (shares * slope), shares @ ((true_sharp - 1 / n_classes) / true) * UNIFORM_SCALE
        )
        prior = TEMPERATURE_PRIOR / clips * parameters
        return float(prior @ parameters - shares @ np.log(true)), gradient + 2 * prior

    bounds = [tuple(np.log(TEMPERATURE_BOUNDS))] * count + [(0.0, UNIFORM_BOUND / UNIFORM_SCALE if mixed else 0.0)]
    optimum = minimize(loss, np.zeros(count + 1), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.append(np.exp(optimum.x[:-1]), optimum.x[-1] * UNIFORM_SCALE)
