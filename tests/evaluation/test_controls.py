"""Controls that `evaluate` compares refined labels with, and calibration of the label model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.controls import (
    DROPPED,
    GIVEN,
    HUMAN_LABELS,
    PSEUDO,
    REBALANCED,
    REFINED,
    TrainingSet,
    compare_controls,
    predict_out_of_fold,
    training_sets,
)
from ecmf_pipeline.evaluation.scoring import Evaluator, leave_one_out, reliability
from ecmf_pipeline.labels.refine import Decision, LabelAction
from ecmf_pipeline.report.refinement import evidence_blocks

LABELS = ("happy", "sad")


def make_decision(old: str, new: str, weight: float, action: LabelAction) -> Decision:
    return Decision(ClipId("x"), Split.TRAIN, old, new, action, weight, 0.9, 1.0, "")


def test_each_control_has_its_training_labels() -> None:
    given = np.array([0, 1, 1, -1, -1])
    decisions = [
        make_decision("happy", "happy", 0.8, LabelAction.KEEP),
        make_decision("sad", "", 0.0, LabelAction.DROP),
        make_decision("sad", "happy", 1.2, LabelAction.RELABEL),
        make_decision("", "sad", 0.4, LabelAction.PSEUDO),
        make_decision("", "sad", 1.2, LabelAction.PSEUDO),
    ]
    sets = training_sets(given, decisions, LABELS, np.array([-1, -1, 0, -1, 1]))
    expected = {
        GIVEN: [0, 1, 1, -1, -1],
        REBALANCED: [0, 1, 1, -1, -1],
        HUMAN_LABELS: [0, 1, 0, -1, 1],
        DROPPED: [0, -1, 1, -1, -1],
        REFINED: [0, -1, 0, -1, 1],
        PSEUDO: [0, -1, 0, 1, 1],
    }
    assert {name: training_set.labels.tolist() for name, training_set in sets.items()} == expected
    assert [training_set.balance for training_set in sets.values()] == [0.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert_array_equal(sets[REFINED].weights, [0.8, 0, 1.2, 0.4, 1.2])
    assert HUMAN_LABELS not in training_sets(given, decisions, LABELS, np.full(5, -1))


def blobs(clips: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    truth = np.arange(clips) % 2
    return rng.normal(size=(clips, 6)) + 2.0 * truth[:, None], truth


def test_no_clip_is_predicted_by_a_model_trained_on_its_fold() -> None:
    features, truth = blobs(80)
    folds = np.arange(80) % 4
    training = TrainingSet(truth, np.ones(80), 0.5)
    before = predict_out_of_fold(features, training, folds, seed=0)
    flipped = np.where(folds == 1, 1 - truth, truth)
    after = predict_out_of_fold(features, TrainingSet(flipped, np.ones(80), 0.5), folds, seed=0)
    assert_array_equal(before[folds == 1], after[folds == 1])
    assert (before == truth).mean() > 0.9
    features[3] = np.nan
    assert predict_out_of_fold(features, training, folds, seed=0)[3] == -1


def test_clip_weights_are_used() -> None:
    features, truth = blobs(120)
    wrong = np.where(np.arange(120) % 3 == 0, 1 - truth, truth)
    wrong[np.arange(120) % 6 == 0] = 1
    folds = np.arange(120) // 24
    unweighted = predict_out_of_fold(features, TrainingSet(1 - truth, np.ones(120), 0.0), folds, seed=0)
    weights = np.where(wrong == truth, 1.0, 1e-6)
    weighted = predict_out_of_fold(features, TrainingSet(wrong, weights, 0.0), folds, seed=0)
    assert (unweighted == truth).mean() < 0.1
    assert (weighted == truth).mean() > 0.95


@pytest.fixture
def evaluated() -> tuple[Evaluator, NDArray[np.int64]]:
    truth = np.arange(60) % 2
    clips = [Clip(ClipId(f"c{i:02d}"), given_label="sad", gold_label=LABELS[t]) for i, t in enumerate(truth)]
    return Evaluator(clips, LABELS, EvaluateConfig(draws=100)), truth


@pytest.mark.parametrize(
    ("refined_right", "others_right", "conclusion"),
    [(60, 30, "are better than"), (30, 60, "are worse than"), (45, 45, "no significant difference")],
)
def test_the_sentence_names_the_best_training_set(
    evaluated: tuple[Evaluator, NDArray[np.int64]], refined_right: int, others_right: int, conclusion: str
) -> None:
    evaluator, truth = evaluated

    def predict_right(count: int) -> NDArray[np.int64]:
        return np.where(np.arange(60) < count, truth, 1 - truth)

    predictions = {name: predict_right(others_right) for name in (GIVEN, REBALANCED)} | {
        REFINED: predict_right(refined_right)
    }
    comparison = compare_controls(evaluator, predictions)
    assert conclusion in comparison["sentence"]
    assert (REFINED in comparison["sentence"]) == (refined_right > others_right)
    over = comparison["sets"][REFINED]["over_rebalanced"]
    assert over["low"] <= over["difference"] <= over["high"]
    blocks = evidence_blocks({"controls": comparison})
    assert len(blocks) == 3


def test_reliability_uses_only_clips_with_known_labels() -> None:
    rng = np.random.default_rng(0)
    posterior = rng.dirichlet(np.full(3, 0.7), 4000)
    truth = (rng.random(4000)[:, None] > posterior.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    scores = reliability(posterior, np.where(np.arange(4000) % 2 == 0, truth, -1))
    assert scores["clips"] == 2000
    assert scores["ece"] < 0.04
    assert all(abs(point["confidence"] - point["accuracy"]) < 0.12 for point in scores["curve"])
    accuracies = [point["accuracy"] for point in scores["coverage"]]
    assert accuracies[0] > 0.9 > accuracies[-1] == pytest.approx(scores["accuracy"])
    overconfident = posterior**4 / (posterior**4).sum(axis=1, keepdims=True)
    assert reliability(overconfident, truth)["ece"] > 0.1
    assert reliability(posterior, np.full(4000, -1))["accuracy"] is None


def test_leaving_an_informative_family_out_lowers_accuracy() -> None:
    truth = np.arange(300) % 3
    good, poor = np.eye(3)[truth], np.full((300, 3), 1 / 3)
    votes = {"face/linear": good, "face/lightgbm": good, "text": poor}

    def mean(votes: Any) -> NDArray[np.float64]:
        return np.asarray(np.mean(list(votes.values()), axis=0))

    scores = leave_one_out(votes, truth, mean)
    assert scores["text"]["accuracy"] == 1.0
    assert scores["face"]["accuracy"] < 0.4
    assert leave_one_out({"text": poor}, truth, mean) == {}
