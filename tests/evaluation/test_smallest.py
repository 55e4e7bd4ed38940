"""The smallest set of encoders within a margin of the best."""

from __future__ import annotations

import numpy as np
import pytest

from ecmf_pipeline.evaluation.smallest import SubsetScores, find_smallest, within_margin
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.training import fit

CLIPS = 180
"""With fewer, one clip is more than the margin of the tests."""
TRAINING = TrainingConfig(folds=3, seeds=1, epochs=8, patience=4, learning_rate=5e-3, calibration="none")


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.arange(CLIPS) % 3


@pytest.fixture(scope="module")
def features(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Two encoders that complement each other, and three of noise."""
    rng = np.random.default_rng(0)
    strengths = {"face.a": 1.2, "face.noise": 0.0, "audio.noise": 0.0, "text.a": 1.2, "text.noise": 0.0}
    return {
        name: (strength * rng.normal(size=(3, 8))[labels] + rng.normal(size=(CLIPS, 8))).astype(np.float32)
        for name, strength in strengths.items()
    }


@pytest.fixture(scope="module")
def ensemble(features: dict[str, np.ndarray], labels: np.ndarray) -> Ensemble:
    fusion = FusionConfig(hidden=16, heads=2)
    return fit(features, labels, folds=np.arange(CLIPS) // 3 % 3, fusion=fusion, training=TRAINING)


def scores(ensemble: Ensemble, features: dict[str, np.ndarray], labels: np.ndarray, budget: int = 100) -> SubsetScores:
    return SubsetScores([ensemble], features, labels, np.arange(CLIPS) // 3 % 3, budget)


def test_encoders_of_noise_are_left_out(ensemble, features, labels) -> None:
    found = find_smallest(scores(ensemble, features, labels), 0.01)
    assert set(found.kept) <= {"face.a", "text.a"}
    assert [len(kept) for kept, _ in found.path] == [5, 4, 3, 2, 1]
    assert found.scored <= 2**5
    assert (found.classes == labels).mean() > 0.8


def test_labels_of_a_fold_do_not_choose_its_set(ensemble, features, labels) -> None:
    folds = np.arange(CLIPS) // 3 % 3
    other = np.where(folds == 0, (labels + 1) % 3, labels)
    one, two = (find_smallest(scores(ensemble, features, given), 0.01) for given in (labels, other))
    assert one.by_fold[0] == two.by_fold[0]
    np.testing.assert_array_equal(one.classes[:, folds == 0], two.classes[:, folds == 0])


def test_the_budget_limits_the_sets(ensemble, features, labels) -> None:
    found = find_smallest(scores(ensemble, features, labels, budget=7), 0.01)
    assert found.scored <= 7
    assert len(found.path) == 2, "six sets give one step; the next step needs four more"


def test_the_smallest_set_is_within_the_margin() -> None:
    path = [(("a", "b", "c"), 0.80), (("a", "b"), 0.82), (("a",), 0.805)]
    assert within_margin(path, 0.01) == ("a", "b")
    assert within_margin(path, 0.02) == ("a",)
