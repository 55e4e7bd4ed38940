"""Temperature scaling."""

from __future__ import annotations

import numpy as np
import pytest

from ecmf_pipeline.core.arrays import expected_calibration_error
from ecmf_pipeline.fusion.prediction import apply_temperatures
from ecmf_pipeline.fusion.training import held_out_temperatures, temperature


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
    fitted = temperature(probs, labels, np.ones(3000))
    assert fitted == pytest.approx(2.5, rel=0.1)
    calibrated = apply_temperatures(probs.astype(np.float64), np.full(3000, fitted))
    np.testing.assert_array_equal(calibrated.argmax(axis=1), probs.argmax(axis=1))
    errors = [expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == labels) for p in (probs, calibrated)]
    assert errors[1] < errors[0] / 3


def test_the_temperature_of_a_fold_does_not_use_its_labels() -> None:
    probs, labels = overconfident_probs(200, 2.0)
    folds = np.arange(200) % 4
    plain = held_out_temperatures(probs, labels, np.ones(200), folds)
    altered = held_out_temperatures(probs, np.where(folds == 2, 3 - labels, labels), np.ones(200), folds)
    assert set(plain) == {-1, 0, 1, 2, 3}
    assert plain[2] == altered[2]
    assert plain[0] != altered[0]
    assert plain[-1] != altered[-1]


def test_rows_of_nan_are_ignored_and_few_clips_are_not_calibrated() -> None:
    probs, labels = overconfident_probs(30, 2.0)
    with_missing = probs.copy()
    with_missing[7] = np.nan
    kept = np.arange(30) != 7
    assert held_out_temperatures(with_missing, labels, np.ones(30), np.zeros(30, int))[-1] == temperature(
        probs[kept], labels[kept], np.ones(29)
    )
    assert temperature(probs[:19], labels[:19], np.ones(19)) == 1.0
    assert np.isnan(apply_temperatures(with_missing.astype(np.float64), np.ones(30))[7]).all()
