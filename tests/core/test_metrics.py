"""The scores."""

from __future__ import annotations

import numpy as np
import pytest

from ecmf_pipeline.core.arrays import bootstrap_difference, confusion, expected_calibration_error, scores, weighted_f1


def test_weighted_f1_by_hand():
    # class a: P 1/2, R 1/2, F 1/2, support 2; class b: P 1/2, R 1/2... of two, support 2
    assert weighted_f1(["a", "a", "b", "b"], ["a", "b", "a", "b"]) == pytest.approx(0.5)
    # a: F1 = 0.8 of support 2; b: F1 = 2/3 of support 2
    assert weighted_f1(["a", "a", "b", "b"], ["a", "a", "a", "b"]) == pytest.approx((0.8 * 2 + 2 / 3 * 2) / 4)


def test_scores_count_classes_that_nobody_predicted():
    found = scores(["a", "b"], ["a", "a"], ["a", "b", "c"])
    assert found["accuracy"] == 0.5
    assert found["per_class"]["b"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert found["per_class"]["c"]["support"] == 0


def test_confusion_rows_are_true_labels():
    assert confusion(["a", "a", "b"], ["b", "a", "b"], ["a", "b"]).tolist() == [[1, 1], [0, 1]]


def test_calibration_error_of_known_cases():
    sure = np.full(100, 0.95)
    assert expected_calibration_error(sure, np.ones(100, bool)) == pytest.approx(0.05)
    assert expected_calibration_error(sure, np.arange(100) < 50) == pytest.approx(0.45)
    assert np.isnan(expected_calibration_error(np.empty(0), np.empty(0, bool)))


def test_the_bootstrap_interval_holds_the_difference_and_knows_groups():
    rng = np.random.default_rng(0)
    truth = rng.choice(["a", "b", "c"], 300)
    good = np.where(rng.random(300) < 0.9, truth, "a")
    bad = np.where(rng.random(300) < 0.5, truth, "a")
    difference, low, high = bootstrap_difference(good, bad, truth, rng=np.random.default_rng(1), draws=200)
    assert low < difference < high
    assert low > 0
    same, low, high = bootstrap_difference(good, good, truth, rng=np.random.default_rng(1), draws=100)
    assert same == low == high == 0
    few_groups = np.repeat(["g1", "g2", "g3"], 100)
    _, low_grouped, high_grouped = bootstrap_difference(
        good, bad, truth, rng=np.random.default_rng(1), groups=few_groups, draws=200
    )
    assert low_grouped <= difference <= high_grouped


def test_the_difference_is_that_of_scikit_learn():
    rng = np.random.default_rng(3)
    truth, first, second = (rng.choice(["a", "b", "c", "d"], 60) for _ in range(3))
    expected = weighted_f1(list(truth), list(first)) - weighted_f1(list(truth), list(second))
    found, _, _ = bootstrap_difference(first, second, truth, rng=np.random.default_rng(1), draws=10)
    assert found == pytest.approx(expected)


def test_the_interval_is_as_wide_as_drawing_clips_one_by_one():
    rng = np.random.default_rng(5)
    truth = rng.choice(["a", "b", "c"], 120)
    first, second = (np.where(rng.random(120) < share, truth, "a") for share in (0.8, 0.6))
    _, low, high = bootstrap_difference(first, second, truth, rng=np.random.default_rng(1), draws=2000)
    drawn = []
    for _ in range(400):
        rows = rng.integers(0, 120, 120)
        drawn.append(
            weighted_f1(list(truth[rows]), list(first[rows])) - weighted_f1(list(truth[rows]), list(second[rows]))
        )
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.03)
