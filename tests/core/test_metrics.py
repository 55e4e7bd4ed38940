"""Tests of the metrics."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from ecmf_pipeline.core import arrays
from ecmf_pipeline.core.arrays import (
    bootstrap_difference,
    bootstrap_f1,
    bootstrap_samples,
    confusion,
    expected_calibration_error,
    scores,
    weighted_f1,
)


def test_weighted_f1_equals_values_computed_by_hand():
    # a and b: precision 1/2, recall 1/2, F1 1/2, support 2
    assert weighted_f1(["a", "a", "b", "b"], ["a", "b", "a", "b"]) == pytest.approx(0.5)
    # a: F1 0.8, support 2; b: F1 2/3, support 2
    assert weighted_f1(["a", "a", "b", "b"], ["a", "a", "a", "b"]) == pytest.approx((0.8 * 2 + 2 / 3 * 2) / 4)


def test_scores_include_classes_without_predictions():
    result = scores(["a", "b"], ["a", "a"], ["a", "b", "c"])
    assert result["accuracy"] == 0.5
    assert result["per_class"]["b"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert result["per_class"]["c"]["support"] == 0


def test_confusion_rows_are_true_labels():
    assert confusion(np.array([0, 0, 1]), np.array([1, 0, 1]), 2).tolist() == [[1, 1], [0, 1]]


def test_calibration_error_equals_values_computed_by_hand():
    confidence = np.full(100, 0.95)
    assert expected_calibration_error(confidence, np.ones(100, bool)) == pytest.approx(0.05)
    assert expected_calibration_error(confidence, np.arange(100) < 50) == pytest.approx(0.45)
    assert np.isnan(expected_calibration_error(np.empty(0), np.empty(0, bool)))


def test_bootstrap_interval_contains_the_difference_with_and_without_groups():
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


def test_the_interval_of_a_score_is_that_of_resampled_scores():
    rng = np.random.default_rng(3)
    truth = rng.choice(["a", "b", "c"], 60)
    predicted = np.where(rng.random(60) < 0.7, truth, "a")
    low, high = bootstrap_f1(predicted, truth, rng=np.random.default_rng(1), draws=4000)
    samples = [weighted_f1(truth[rows], predicted[rows]) for rows in rng.integers(0, 60, (300, 60))]
    assert [low, high] == pytest.approx(np.quantile(samples, [0.025, 0.975]), abs=0.04)
    groups = np.repeat(["s1", "s2", "s3", "s4"], 15)
    grouped = bootstrap_f1(predicted, truth, rng=np.random.default_rng(1), groups=groups)
    assert grouped[0] < weighted_f1(truth, predicted) < grouped[1]


def test_bootstrap_difference_equals_scikit_learn():
    rng = np.random.default_rng(3)
    truth, first, second = (rng.choice(["a", "b", "c", "d"], 60) for _ in range(3))
    expected = weighted_f1(list(truth), list(first)) - weighted_f1(list(truth), list(second))
    difference, _, _ = bootstrap_difference(first, second, truth, rng=np.random.default_rng(1), draws=10)
    assert difference == pytest.approx(expected)


def test_bootstrap_interval_equals_one_of_resampled_clips():
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


def test_a_bootstrap_of_many_groups_holds_no_matrix_of_draws_and_groups(monkeypatch):
    rng = np.random.default_rng(7)
    truth, first, second = (rng.integers(0, 6, 40_000) for _ in range(3))
    groups = np.arange(40_000) // 4
    tracemalloc.start()
    _, samples = bootstrap_samples(first, second, truth, rng=np.random.default_rng(1), groups=groups, draws=400)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # the draws of all groups alone are 32 MB, and the kinds of clips in each group 17 MB
    monkeypatch.setattr(arrays, "_DRAWN_NUMBERS", 1)
    _, one_by_one = bootstrap_samples(first, second, truth, rng=np.random.default_rng(1), groups=groups, draws=20)
    np.testing.assert_array_equal(one_by_one, samples[:20])
