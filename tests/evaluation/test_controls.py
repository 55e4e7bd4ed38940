"""The controls that `evaluate` trains beside the refined labels, and the check of the label model's belief."""

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
    PSEUDO,
    REBALANCED,
    REFINED,
    VERDICTS,
    TrainingSet,
    compare,
    predict_out_of_fold,
    training_sets,
)
from ecmf_pipeline.evaluation.scoring import Judge, leave_one_out, reliability
from ecmf_pipeline.labels.refine import Decision, LabelAction
from ecmf_pipeline.report.refinement import proof_blocks

LABELS = ("happy", "sad")


def decision(old: str, new: str, weight: float, verdict: LabelAction) -> Decision:
    return Decision(ClipId("x"), Split.TRAIN, old, new, verdict, weight, 0.9, 1.0, "")


def test_each_control_trains_on_its_own_labels() -> None:
    given = np.array([0, 1, 1, -1, -1])
    decisions = [
        decision("happy", "happy", 0.8, LabelAction.KEEP),
        decision("sad", "", 0.0, LabelAction.DROP),
        decision("sad", "happy", 1.2, LabelAction.RELABEL),
        decision("", "sad", 0.4, LabelAction.PSEUDO),
        decision("", "sad", 1.2, LabelAction.PSEUDO),
    ]
    sets = training_sets(given, decisions, LABELS, np.array([-1, -1, 0, -1, 1]))
    expected = {
        GIVEN: [0, 1, 1, -1, -1],
        REBALANCED: [0, 1, 1, -1, -1],
        VERDICTS: [0, 1, 0, -1, 1],
        DROPPED: [0, -1, 1, -1, -1],
        REFINED: [0, -1, 0, -1, 1],
        PSEUDO: [0, -1, 0, 1, 1],
    }
    assert {name: one.labels.tolist() for name, one in sets.items()} == expected
    assert [one.balance for one in sets.values()] == [0.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert_array_equal(sets[REFINED].weights, [0.8, 0, 1.2, 0.4, 1.2])
    assert VERDICTS not in training_sets(given, decisions, LABELS, np.full(5, -1))


def blobs(clips: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    truth = np.arange(clips) % 2
    return rng.normal(size=(clips, 6)) + 2.0 * truth[:, None], truth


def test_no_clip_is_judged_by_a_model_that_trained_on_its_fold() -> None:
    features, truth = blobs(80)
    folds = np.arange(80) % 4
    training = TrainingSet(truth, np.ones(80), 0.5)
    before = predict_out_of_fold(features, training, folds, seed=0)
    spoiled = np.where(folds == 1, 1 - truth, truth)
    after = predict_out_of_fold(features, TrainingSet(spoiled, np.ones(80), 0.5), folds, seed=0)
    assert_array_equal(before[folds == 1], after[folds == 1])
    assert (before == truth).mean() > 0.9
    features[3] = np.nan
    assert predict_out_of_fold(features, training, folds, seed=0)[3] == -1


def test_weights_are_obeyed() -> None:
    features, truth = blobs(120)
    wrong = np.where(np.arange(120) % 3 == 0, 1 - truth, truth)
    wrong[np.arange(120) % 6 == 0] = 1
    folds = np.arange(120) // 24
    even = predict_out_of_fold(features, TrainingSet(1 - truth, np.ones(120), 0.0), folds, seed=0)
    weights = np.where(wrong == truth, 1.0, 1e-6)
    weighted = predict_out_of_fold(features, TrainingSet(wrong, weights, 0.0), folds, seed=0)
    assert (even == truth).mean() < 0.1
    assert (weighted == truth).mean() > 0.95


@pytest.fixture
def judged() -> tuple[Judge, list[str], NDArray[np.int64]]:
    truth = np.arange(60) % 2
    clips = [Clip(ClipId(f"c{i:02d}"), given_label="sad", gold_label=LABELS[t]) for i, t in enumerate(truth)]
    return Judge(clips, LABELS, EvaluateConfig(draws=100)), [clip.clip_id for clip in clips], truth


@pytest.mark.parametrize(
    ("refined_right", "others_right", "said"),
    [(60, 30, "refined labels help"), (30, 60, "refined labels hurt"), (45, 45, "not shown to help")],
)
def test_it_says_plainly_which_training_set_won(
    judged: tuple[Judge, list[str], NDArray[np.int64]], refined_right: int, others_right: int, said: str
) -> None:
    judge, clip_ids, truth = judged

    def right(count: int) -> NDArray[np.int64]:
        return np.where(np.arange(60) < count, truth, 1 - truth)

    predictions = {name: right(others_right) for name in (GIVEN, REBALANCED)} | {REFINED: right(refined_right)}
    found = compare(judge, clip_ids, predictions)
    assert said in found["sentence"]
    assert (REFINED in found["sentence"]) == (refined_right > others_right)
    over = found["sets"][REFINED]["over_rebalanced"]
    assert over["low"] <= over["difference"] <= over["high"]
    blocks = proof_blocks({"controls": found})
    assert len(blocks) == 3


def test_reliability_is_that_of_the_clips_whose_label_is_known() -> None:
    rng = np.random.default_rng(0)
    posterior = rng.dirichlet(np.full(3, 0.7), 4000)
    truth = (rng.random(4000)[:, None] > posterior.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    found = reliability(posterior, np.where(np.arange(4000) % 2 == 0, truth, -1))
    assert found["clips"] == 2000
    assert found["ece"] < 0.04
    assert all(abs(point["confidence"] - point["accuracy"]) < 0.12 for point in found["curve"])
    accuracies = [point["accuracy"] for point in found["coverage"]]
    assert accuracies[0] > 0.9 > accuracies[-1] == pytest.approx(found["accuracy"])
    too_sure = posterior**4 / (posterior**4).sum(axis=1, keepdims=True)
    assert reliability(too_sure, truth)["ece"] > 0.1
    assert reliability(posterior, np.full(4000, -1))["accuracy"] is None


def test_leaving_a_family_out_shows_what_it_adds() -> None:
    truth = np.arange(300) % 3
    good, poor = np.eye(3)[truth], np.full((300, 3), 1 / 3)
    votes = {"face/linear": good, "face/lightgbm": good, "text": poor}

    def mean(some: Any) -> NDArray[np.float64]:
        return np.asarray(np.mean(list(some.values()), axis=0))

    found = leave_one_out(votes, truth, mean)
    assert found["text"]["accuracy"] == 1.0
    assert found["face"]["accuracy"] < 0.4
    assert leave_one_out({"text": poor}, truth, mean) == {}
