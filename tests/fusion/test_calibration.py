"""Temperature scaling."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.arrays import calibration_error_by_chance, expected_calibration_error
from ecmf_pipeline.fusion.calibration import fit_temperatures, temperatures_by_fold
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.prediction import Ensemble, apply_temperatures
from ecmf_pipeline.fusion.training import fit


def temperature(probs: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature of clips that have all modalities."""
    return float(fit_temperatures(probs, labels, np.ones(len(labels)), np.zeros((len(labels), 0), bool))[0])


def held_out_temperatures(probs: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> dict[int, float]:
    """Return the temperature of each fold."""
    absent = np.zeros((len(labels), 0), bool)
    fitted = temperatures_by_fold(probs, labels, np.ones(len(labels)), folds, absent)
    return {fold: float(values[0]) for fold, values in fitted.items()}


def overconfident_probs(clips: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities with log-probabilities scaled by ``sharpness``, and labels drawn from the unscaled ones."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(clips, 4)) * 1.5
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(4, p=row) for row in true])
    sharp = true**sharpness
    return (sharp / sharp.sum(axis=1, keepdims=True)).astype(np.float32), labels


def test_the_temperature_corrects_overconfidence() -> None:
    probs, labels = overconfident_probs(3000, 2.5)
    fitted = temperature(probs, labels)
    assert fitted == pytest.approx(2.5, rel=0.1)
    calibrated = apply_temperatures(probs.astype(np.float64), np.full(3000, fitted))
    np.testing.assert_array_equal(calibrated.argmax(axis=1), probs.argmax(axis=1))
    errors = [expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == labels) for p in (probs, calibrated)]
    assert errors[1] < errors[0] / 3


def test_the_temperature_of_a_fold_does_not_use_its_labels() -> None:
    probs, labels = overconfident_probs(200, 2.0)
    folds = np.arange(200) % 4
    plain = held_out_temperatures(probs, labels, folds)
    altered = held_out_temperatures(probs, np.where(folds == 2, 3 - labels, labels), folds)
    assert set(plain) == {-1, 0, 1, 2, 3}
    assert plain[2] == altered[2]
    assert plain[0] != altered[0]
    assert plain[-1] != altered[-1]


def test_rows_of_nan_are_ignored_and_few_clips_are_not_calibrated() -> None:
    probs, labels = overconfident_probs(30, 2.0)
    with_missing = probs.copy()
    with_missing[7] = np.nan
    kept = np.arange(30) != 7
    fitted = held_out_temperatures(with_missing, labels, np.zeros(30, int))
    assert fitted[-1] == temperature(probs[kept], labels[kept]) != 1.0
    assert temperature(probs[:19], labels[:19]) == 1.0
    assert np.isnan(apply_temperatures(with_missing.astype(np.float64), np.ones(30))[7]).all()


def test_clips_without_a_modality_have_a_temperature_of_their_own() -> None:
    probs, labels = overconfident_probs(4000, 1.0)
    absent = np.arange(4000) % 2 == 0
    sharp = probs**3
    mixed = np.where(absent[:, None], sharp / sharp.sum(axis=1, keepdims=True), probs)
    absent_of_two = np.stack([absent, np.zeros(4000, bool)], axis=1)
    present, factor, other, uniform = fit_temperatures(mixed, labels, np.ones(4000), absent_of_two)
    assert present == pytest.approx(1.0, rel=0.1)
    assert factor == pytest.approx(3.0, rel=0.1)
    assert other == 1.0  # no clip lacks it: only the prior
    assert uniform < 0.04


def test_wrong_labels_are_a_uniform_share() -> None:
    probs, labels = overconfident_probs(4000, 1.0)
    rng = np.random.default_rng(1)
    noisy = np.where(rng.random(4000) < 0.3, rng.integers(0, 4, 4000), labels)
    absent = np.zeros((4000, 0), bool)
    scale, uniform = fit_temperatures(probs, noisy, np.ones(4000), absent)
    assert scale == pytest.approx(1.0, abs=0.2)
    assert uniform == pytest.approx(0.3, abs=0.06)
    assert fit_temperatures(probs, noisy, np.ones(4000), absent, mixed=False)[1] == 0.0


def test_the_factor_of_a_missing_modality_is_fitted_by_hiding_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 4
    means = rng.normal(size=(4, 6))[labels]
    features = {
        "good": (2 * means + rng.normal(size=(160, 6))).astype(np.float32),
        "bad": rng.normal(size=(160, 60)).astype(np.float32),
    }
    training = TrainingConfig(folds=2, seeds=1, epochs=8)
    ensemble = fit(features, labels, folds=np.arange(160) // 4 % 2, fusion=FusionConfig(hidden=16), training=training)
    assert ensemble.missing_factors["good"][-1] > 1.2  # without it, the rest is overconfident
    ensemble.save(tmp_path)
    assert Ensemble.load(tmp_path).missing_factors == ensemble.missing_factors
    assert Ensemble.load(tmp_path).uniform_shares == ensemble.uniform_shares
    hidden = {"good": np.zeros(160, bool)}
    raw = replace(ensemble, missing_factors={}).predict(features, masks=hidden)
    calibrated = ensemble.predict(features, masks=hidden)
    assert calibrated.probs.max(axis=1).mean() < raw.probs.max(axis=1).mean()
    np.testing.assert_array_equal(calibrated.classes, raw.classes)
    whole = replace(ensemble, missing_factors={}).predict(features)
    np.testing.assert_array_equal(ensemble.predict(features).probs, whole.probs)


def test_the_calibration_error_by_chance_falls_with_the_number_of_clips() -> None:
    probs, labels = overconfident_probs(3000, 1.0)
    confidence = probs.max(axis=1).astype(np.float64)
    few, many = (calibration_error_by_chance(confidence[:clips], rng=np.random.default_rng(0)) for clips in (100, 3000))
    assert many < few / 3
    measured = expected_calibration_error(confidence, probs.argmax(axis=1) == labels)
    assert measured == pytest.approx(many, abs=0.015)  # the probabilities are true
