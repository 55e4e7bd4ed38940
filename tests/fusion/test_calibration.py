from __future__ import annotations

import numpy as np
import pytest

from ecmf_pipeline.core.arrays import expected_calibration_error
from ecmf_pipeline.fusion.prediction import cooled
from ecmf_pipeline.fusion.training import held_out_temperatures, temperature


def overconfident(clips: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities whose logarithms are ``sharpness`` times what the labels were drawn from."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(clips, 4)) * 1.5
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(4, p=row) for row in true])
    sharp = true**sharpness
    return (sharp / sharp.sum(axis=1, keepdims=True)).astype(np.float32), labels


def test_the_temperature_undoes_overconfidence() -> None:
    probs, labels = overconfident(3000, 2.5)
    found = temperature(probs, labels, np.ones(3000))
    assert found == pytest.approx(2.5, rel=0.1)
    cool = cooled(probs.astype(np.float64), np.full(3000, found))
    np.testing.assert_array_equal(cool.argmax(axis=1), probs.argmax(axis=1))
    errors = [expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == labels) for p in (probs, cool)]
    assert errors[1] < errors[0] / 3


def test_no_fold_is_cooled_by_its_own_labels() -> None:
    probs, labels = overconfident(200, 2.0)
    folds = np.arange(200) % 4
    plain = held_out_temperatures(probs, labels, np.ones(200), folds)
    altered = held_out_temperatures(probs, np.where(folds == 2, 3 - labels, labels), np.ones(200), folds)
    assert set(plain) == {-1, 0, 1, 2, 3}
    assert plain[2] == altered[2]
    assert plain[0] != altered[0]
    assert plain[-1] != altered[-1]


def test_rows_without_a_prediction_and_few_clips() -> None:
    probs, labels = overconfident(30, 2.0)
    gone = probs.copy()
    gone[7] = np.nan
    kept = np.arange(30) != 7
    assert held_out_temperatures(gone, labels, np.ones(30), np.zeros(30, int))[-1] == temperature(
        probs[kept], labels[kept], np.ones(29)
    )
    assert temperature(probs[:19], labels[:19], np.ones(19)) == 1.0
    assert np.isnan(cooled(gone.astype(np.float64), np.ones(30))[7]).all()
