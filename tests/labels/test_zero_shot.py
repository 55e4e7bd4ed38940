"""Tests of labels without labels: the basis, the mapping of emotions, the label model, and the first clips to label."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.labels import labels_in_use
from ecmf_pipeline.encoders.embedded.mini_xception import EXPRESSIONS
from ecmf_pipeline.labels.basis import describe_verdicts, known_labels, training_basis
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.refine import LabelAction, decide
from ecmf_pipeline.labels.selection import select_first_clips
from ecmf_pipeline.labels.zero_shot import assess_without_labels, confidence_scale, map_labels, map_probs

NONE = np.full(40, -1)


def labels(*values: int) -> np.ndarray:
    return np.array([*values, *[-1] * (40 - len(values))])


@pytest.mark.parametrize(
    ("given", "verdicts", "basis"),
    [
        (NONE, NONE, Basis.ZERO_SHOT),
        (labels(0, 0, 1, 1), NONE, Basis.GIVEN),
        (labels(*[0] * 20), NONE, Basis.ZERO_SHOT),  # one class
        (labels(0, 0, 0, 1), NONE, Basis.ZERO_SHOT),  # no fold could both learn and predict the second class
        (NONE, labels(*[0, 1] * 14, 0), Basis.ZERO_SHOT),
        (NONE, labels(*[0, 1] * 15), Basis.VERDICTS),
        (NONE, labels(*[0] * 35), Basis.ZERO_SHOT),  # enough verdicts of one class
        (labels(*[0] * 28), labels(*[-1] * 28, 1, 1), Basis.VERDICTS),  # one given class counts as verdicts
    ],
)
def test_basis_of_training(given: np.ndarray, verdicts: np.ndarray, basis: Basis) -> None:
    assert training_basis(given, verdicts) is basis


def test_verdicts_replace_given_labels() -> None:
    assert known_labels(np.array([0, 0, -1]), np.array([1, -1, -1])).tolist() == [1, 0, -1]


def test_labels_of_a_corpus_with_fewer_than_two() -> None:
    assert labels_in_use([]) == MER_LABELS
    assert labels_in_use(["Happy", "Happy"]) == MER_LABELS
    assert labels_in_use(["bored"]) == (*MER_LABELS, "bored")
    assert labels_in_use(["joy", "anger"]) == ("anger", "joy")


def test_emotions_are_mapped_by_name_synonym_and_setting() -> None:
    assert map_labels(EXPRESSIONS, MER_LABELS, {})["fear"] == "worried"
    assert "disgust" not in map_labels(EXPRESSIONS, MER_LABELS, {})
    assert map_labels(EXPRESSIONS, MER_LABELS, {"disgust": "angry", "fear": ""})["disgust"] == "angry"
    assert "fear" not in map_labels(EXPRESSIONS, MER_LABELS, {"fear": ""})
    assert map_labels(["Joy"], ["Happiness"], {}) == {"Joy": "Happiness"}


def test_probabilities_are_added_and_a_label_without_counterpart_abstains() -> None:
    probs = np.array([[0.3, 0.3, 0.4], [0.1, 0.1, 0.8], [np.nan] * 3])
    votes = map_probs(probs, ["joy", "love", "disgust"], ["happy", "sad"], {"joy": "happy", "love": "happy"})
    np.testing.assert_allclose(votes[:2], [[np.nan, np.nan]] * 2)
    votes = map_probs(probs, ["joy", "love", "disgust"], ["happy", "sad"], {"joy": "happy", "disgust": "sad"})
    np.testing.assert_allclose(votes[0], [3 / 7, 4 / 7])
    np.testing.assert_allclose(votes[1], [1 / 9, 8 / 9])
    assert np.isnan(votes[2]).all()


def test_confidence_is_scaled_to_the_expected_accuracy() -> None:
    logs = 4 * np.random.default_rng(0).normal(size=(200, 6))
    for accuracy in (0.3, 0.45, 0.8):
        scaled = softmax(confidence_scale(logs, accuracy) * logs, axis=1)
        assert scaled.max(axis=1).mean() == pytest.approx(accuracy, abs=1e-3)


def votes_of(truth: np.ndarray, accuracy: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    voted = np.where(rng.random(len(truth)) < accuracy, truth, rng.integers(0, 3, len(truth)))
    return np.where(np.eye(3)[voted] > 0, 0.8, 0.1)


def test_posterior_of_unverified_and_verified_clips() -> None:
    truth = np.arange(60) % 3
    votes = {"good": votes_of(truth, 0.9, 0), "bad": votes_of(truth, 0.0, 1)}
    votes["good"][5] = votes["bad"][5] = np.nan
    before = assess_without_labels(votes, np.full(60, -1), {"good": 0.5, "bad": 0.5}, other=0.4)
    np.testing.assert_allclose(before.posterior[5], 1 / 3)
    assert not before.calibrated
    total = before.log_odds(np.zeros(60, np.int64), np.ones(60, np.int64)).total
    np.testing.assert_allclose(total, np.log(before.posterior[:, 0] / before.posterior[:, 1]))
    known = np.where(np.arange(60) < 20, truth, -1)
    after = assess_without_labels(votes, known, {"good": 0.5, "bad": 0.5}, other=0.4)
    np.testing.assert_array_equal(after.posterior[:20], np.eye(3)[truth[:20]])
    assert after.probs[:20].max() < 1, "verified clips are predicted without their own verdict"
    weight = {source.name: source.weight for source in after.sources}
    assert weight["good"] > 1 > weight["bad"]
    right = [(one.posterior[20:].argmax(axis=1) == truth[20:]).mean() for one in (before, after)]
    assert right[1] > right[0]


def test_zero_shot_decisions_abstain_below_the_threshold_and_name_their_basis() -> None:
    votes = {"face/zero-shot": np.array([[0.9, 0.05, 0.05], [0.4, 0.3, 0.3], [np.nan] * 3, [0.05, 0.9, 0.05]])}
    known = np.array([-1, -1, -1, 2])
    assessment = assess_without_labels(votes, known, {}, other=0.55)
    clips = [Clip(ClipId(name), has_video=True) for name in "abcd"]
    decisions = decide(
        assessment,
        clips,
        ("x", "y", "z"),
        RefineConfig(zero_shot_above=0.6, review_budget=0),
        families={"face/zero-shot": "face"},
        gold=known,
        basis=Basis.ZERO_SHOT,
    )
    assert [one.refined_label for one in decisions] == ["x", "", "", "z"]
    assert [one.basis for one in decisions] == [Basis.ZERO_SHOT] * 3 + [Basis.VERDICTS]
    assert all(isinstance(one.decision, LabelAction) for one in decisions)


@pytest.mark.parametrize(("above", "labels"), [(0.4, ["", "x"]), (0.0, ["y", "x"])])
def test_of_two_labels_none_is_chosen_at_chance(above: float, labels: list[str]) -> None:
    votes = {"llm": np.array([[0.49, 0.51], [0.95, 0.05]])}
    decisions = decide(
        assess_without_labels(votes, np.full(2, -1), {}, other=0.7),
        [Clip(ClipId(name), has_video=True) for name in "ab"],
        ("x", "y"),
        RefineConfig(zero_shot_above=above, review_budget=0),
        families={"llm": "llm"},
        basis=Basis.ZERO_SHOT,
    )
    assert [one.refined_label for one in decisions] == labels


def test_first_clips_among_copies_that_differ_by_rounding() -> None:
    rng = np.random.default_rng(0)
    features = {"audio": np.repeat(100 * rng.normal(size=(2, 88)), [8, 4], axis=0) + 1e-9 * rng.normal(size=(12, 88))}
    nobody = np.zeros(12, np.bool_)
    first = select_first_clips(features, np.zeros(12), ~nobody, nobody, clusters=30)
    assert [row < 8 for row in first] == [True, False]


def test_verdicts_of_one_label_are_not_enough() -> None:
    one, two = np.zeros(31, np.int64), np.arange(31) % 2
    assert describe_verdicts(two) == "31 of 30 verdicts"
    assert "two labels" in describe_verdicts(one)
    assert "two labels" not in describe_verdicts(one[:29])


def test_first_clips_are_one_of_each_cluster_without_a_verdict() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4), [12, 8, 6, 4])
    features = {"face": 50 * np.eye(4)[group] + rng.normal(size=(30, 4)), "text": np.full((30, 3), np.nan)}
    gain, nobody = np.linspace(0, 1, 30), np.zeros(30, np.bool_)
    first = select_first_clips(features, gain, ~nobody, nobody, clusters=4)
    assert group[first].tolist() == [0, 1, 2, 3], "the largest cluster is first"
    known = nobody.copy()
    known[first[:2]] = True
    assert select_first_clips(features, gain, ~known, known, clusters=4) == first[2:], "the list continues"
