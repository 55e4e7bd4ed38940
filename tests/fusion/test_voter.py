"""The fusion as a voter in the rounds of `vote`."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.training import FusionVoter
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.voters import VoterPanel, held_out_score, vote_in_rounds

CLIPS = 48
LABELS = ("happy", "sad")


def make_voter() -> tuple[FusionVoter, NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    truth = np.arange(CLIPS) % 2
    features = {
        name: (rng.normal(size=(CLIPS, 3)) + 2.0 * truth[:, None]).astype(np.float32) for name in ("face", "text")
    }
    features["face"][4] = features["text"][4] = np.nan
    training = TrainingConfig(seeds=2, epochs=6, learning_rate=0.03)
    groups = [f"speaker{row // 8}" for row in range(CLIPS)]
    return (
        FusionVoter(features, groups, LABELS, FusionConfig(hidden=8, heads=2), training),
        truth,
        np.arange(CLIPS) // 16,
    )


def test_the_labels_of_a_fold_do_not_change_its_votes() -> None:
    fusion, truth, folds = make_voter()
    labels = truth.copy()
    labels[40:] = -1
    probs = fusion.votes(labels, folds)
    assert np.isnan(probs[4]).all()
    has_features = np.arange(CLIPS) != 4
    assert (probs[has_features].argmax(axis=1) == truth[has_features]).mean() > 0.8
    altered_labels = np.where((folds == 1) & (labels >= 0), 1 - labels, labels)
    altered = fusion.votes(altered_labels, folds)
    assert_array_equal(probs[folds == 1], altered[folds == 1])
    assert not np.array_equal(probs[folds == 0], altered[folds == 0])


def test_sample_weights_are_used_and_the_voter_abstains_without_training_data() -> None:
    fusion, truth, folds = make_voter()
    noisy = np.where(np.arange(CLIPS) % 4 < 2, truth, 1 - truth)
    weights = (noisy == truth).astype(np.float64)
    probs = fusion.votes(noisy, folds, dict.fromkeys(range(3), weights))
    has_features = np.arange(CLIPS) != 4
    assert (probs[has_features].argmax(axis=1) == truth[has_features]).mean() > 0.8
    one_class = fusion.votes(np.zeros(CLIPS, np.int64), folds)
    assert np.isnan(one_class).all()


def test_the_voter_takes_part_in_rounds() -> None:
    fusion, truth, folds = make_voter()
    rising = iter(range(100))
    panel = VoterPanel({}, {}, 2, 0, {"fusion": fusion.votes})
    result = vote_in_rounds(panel, truth, folds, rounds=2, score=lambda _: float(next(rising)), config=RefineConfig())
    assert result.best == 2
    assert set(result.votes) == {"fusion"}
    score = partial(held_out_score, given=truth, human_labels=np.full(CLIPS, -1))
    assert len(vote_in_rounds(panel, truth, folds, rounds=1, score=score, config=RefineConfig()).scores) == 1
