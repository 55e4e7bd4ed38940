from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from ecmf_pipeline.labels.config import LightGbmConfig, LinearConfig, RefineConfig
from ecmf_pipeline.labels.voters import Rounds, VoterPanel, held_out_score, vote_in_rounds

NO_LABEL = -1


def make_panel(
    clips: int, *, noise: float
) -> tuple[VoterPanel, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(1)
    truth = np.arange(clips) % 3
    features = {
        name: 1.4 * np.eye(3)[truth] @ rng.normal(size=(3, 8)) + rng.normal(size=(clips, 8))
        for name in ("face", "text")
    }
    flipped = rng.random(clips) < noise
    given = np.where(flipped, (truth + 1) % 3, truth)
    panel = VoterPanel(features, {"linear": LinearConfig(inverse_penalty=1.0)}, 3, 0)
    return panel, given, truth, rng.permutation(clips) % 4


def run(panel: VoterPanel, given: NDArray[np.int64], folds: NDArray[np.int64], rounds: int) -> Rounds:
    score = partial(held_out_score, given=given, human_labels=np.full(len(given), NO_LABEL))
    return vote_in_rounds(panel, given, folds, rounds=rounds, score=score, config=RefineConfig())


@pytest.mark.slow
def test_votes_of_no_round_depend_on_the_clips_own_given_label() -> None:
    panel, given, _, folds = make_panel(96, noise=0.3)
    counter = iter(range(100))

    def increasing_score(_: NDArray[np.float64]) -> float:
        return float(next(counter))

    changed = given.copy()
    changed[7] = (given[7] + 1) % 3
    first, second = (
        vote_in_rounds(panel, labels, folds, rounds=3, score=increasing_score, config=RefineConfig())
        for labels in (given, changed)
    )
    assert len(first.scores) == 3
    same_fold = folds == folds[7]
    for name in first.votes:
        assert_array_equal(first.votes[name][same_fold], second.votes[name][same_fold])
        assert not np.array_equal(first.votes[name][~same_fold], second.votes[name][~same_fold])


def test_a_second_round_on_weighted_labels_is_better_on_noisy_labels() -> None:
    panel, given, truth, folds = make_panel(400, noise=0.3)
    counter = iter(range(100))
    config = RefineConfig()
    one = run(panel, given, folds, 1)
    two = vote_in_rounds(panel, given, folds, rounds=2, score=lambda _: float(next(counter)), config=config)
    assert two.best == 2

    def loss(rounds: Rounds) -> float:
        probs = np.mean(list(rounds.votes.values()), axis=0)
        return float(-np.log(probs[np.arange(len(truth)), truth]).mean())

    assert loss(two) < loss(one)


def test_rounds_stop_without_improvement_and_the_best_is_kept() -> None:
    panel, given, _, folds = make_panel(96, noise=0.1)
    scores = iter([0.5, 0.6, 0.55, 0.9])
    rounds = vote_in_rounds(panel, given, folds, rounds=4, score=lambda _: next(scores), config=RefineConfig())
    assert rounds.scores == (0.5, 0.6, 0.55)
    assert rounds.best == 2


def test_lightgbm_uses_clip_weights() -> None:
    panel, given, _, folds = make_panel(96, noise=0.2)
    trees = VoterPanel(panel.features, {"lightgbm": LightGbmConfig(rounds=10)}, 3, 0)
    even = trees.votes(given, folds)
    weights = dict.fromkeys(range(4), np.where(np.arange(96) % 2 == 0, 1.0, 0.0))
    weighted = trees.votes(given, folds, weights)
    assert not np.array_equal(even["face/lightgbm"], weighted["face/lightgbm"])
    changed = np.where(np.arange(96) % 2 == 0, given, (given + 1) % 3)  # labels of clips with weight 0
    assert_array_equal(trees.votes(changed, folds, weights)["face/lightgbm"], weighted["face/lightgbm"])


def test_rounds_are_scored_on_human_labels_if_there_are_enough() -> None:
    probs = np.eye(2)[np.arange(80) % 2]
    given, human_labels = 1 - np.arange(80) % 2, np.arange(80) % 2
    assert held_out_score(probs, given=given, human_labels=np.full(80, NO_LABEL)) == 0
    assert held_out_score(probs, given=given, human_labels=human_labels) == pytest.approx(1.0)
    few = np.where(np.arange(80) < 10, human_labels, NO_LABEL)
    assert held_out_score(probs, given=given, human_labels=few) == 0
