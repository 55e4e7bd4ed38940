from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from ecmf_pipeline.labels import voters
from ecmf_pipeline.labels.config import LightGbmConfig, LinearConfig
from ecmf_pipeline.labels.voters import (
    VoterConfig,
    clip_weights,
    fit_projection,
    join_modalities,
    out_of_fold_votes,
)

VOTERS = [LinearConfig(), LightGbmConfig(rounds=20)]


@pytest.fixture(params=VOTERS, ids=lambda config: config.kind)
def voter(request: pytest.FixtureRequest) -> VoterConfig:
    return request.param


def blobs(
    clips: int, classes: int, *, unlabeled: int = 0, dim: int = 20, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    truth = np.arange(clips + unlabeled) % classes
    centres = rng.normal(size=(classes, dim)) * 2
    features = (centres[truth] + rng.normal(size=(len(truth), dim))).astype(np.float32)
    folds = rng.permutation(len(truth)) % 4
    return features, truth, folds


def test_votes_do_not_depend_on_the_clips_own_given_label(voter: VoterConfig) -> None:
    features, given, folds = blobs(80, 4)
    before = out_of_fold_votes(features, given, folds, voter, n_classes=4)
    flipped = given.copy()
    flipped[7] = (given[7] + 1) % 4
    after = out_of_fold_votes(features, flipped, folds, voter, n_classes=4)
    same_fold = folds == folds[7]
    assert_array_equal(after[same_fold], before[same_fold])
    assert not np.array_equal(after[~same_fold], before[~same_fold])  # it affects the other folds


def test_votes_are_accurate_on_separable_classes(voter: VoterConfig) -> None:
    features, truth, folds = blobs(120, 4, unlabeled=40)
    given = truth.copy()
    given[120:] = -1
    votes = out_of_fold_votes(features, given, folds, voter, n_classes=4)
    assert np.mean(votes.argmax(axis=1)[:120] == truth[:120]) > 0.8
    assert np.mean(votes.argmax(axis=1)[120:] == truth[120:]) > 0.8


def test_random_labels_are_not_memorised(voter: VoterConfig) -> None:
    features, _, folds = blobs(120, 4)
    given = np.random.default_rng(3).integers(0, 4, 120)
    votes = out_of_fold_votes(features, given, folds, voter, n_classes=4)
    assert np.mean(votes.argmax(axis=1) == given) < 0.45  # chance is 0.25


def test_missing_features_give_abstentions(voter: VoterConfig) -> None:
    features, given, folds = blobs(60, 3, unlabeled=10)
    given[60:] = -1
    features[[3, 64]] = np.nan
    untouched = features.copy()
    votes = out_of_fold_votes(features, given, folds, voter, n_classes=3)
    assert np.isnan(votes[[3, 64]]).all()
    assert not np.isnan(np.delete(votes, [3, 64], axis=0)).any()
    np.testing.assert_allclose(np.delete(votes, [3, 64], axis=0).sum(axis=1), 1)
    assert_array_equal(features, untouched)


def test_absent_classes_get_probability_zero(voter: VoterConfig) -> None:
    features, truth, folds = blobs(60, 3)
    given = np.array([1, 3, 4])[truth]  # labels 0, 2 and 5 never occur
    votes = out_of_fold_votes(features, given, folds, voter, n_classes=6)
    assert_array_equal(votes[:, [0, 2, 5]], 0)
    assert np.mean(votes.argmax(axis=1) == given) > 0.8


def test_a_class_that_is_entirely_held_out_gets_no_votes(voter: VoterConfig) -> None:
    features, given, folds = blobs(60, 3)
    folds = np.where(given == 2, 0, 1 + folds % 2)
    votes = out_of_fold_votes(features, given, folds, voter, n_classes=3)
    assert_array_equal(votes[given == 2, 2], 0)
    assert (votes[given != 2, 2] > 0).all()


@pytest.mark.parametrize(("clips", "classes"), [(12, 6), (20, 6), (5, 2), (3, 3)])
def test_tiny_corpora_raise_no_warning(voter: VoterConfig, clips: int, classes: int) -> None:
    features, given, folds = blobs(clips, classes, unlabeled=3, dim=300)
    given[clips:] = -1
    votes = out_of_fold_votes(features, given, folds, voter, n_classes=classes)
    np.testing.assert_allclose(votes.sum(axis=1), 1)


def test_constant_features_raise_no_warning(voter: VoterConfig) -> None:
    _, given, folds = blobs(30, 3)
    votes = out_of_fold_votes(np.ones((30, 200)), given, folds, voter, n_classes=3)
    np.testing.assert_allclose(votes.sum(axis=1), 1)


def test_with_fewer_than_two_labels_all_clips_abstain(voter: VoterConfig) -> None:
    features, given, folds = blobs(12, 2)
    for same in (np.zeros_like(given), np.full_like(given, -1)):
        assert np.isnan(out_of_fold_votes(features, same, folds, voter, n_classes=2)).all()


def test_identical_seeds_give_identical_bytes(voter: VoterConfig) -> None:
    features, given, folds = blobs(60, 3)
    first, second = (out_of_fold_votes(features, given, folds, voter, n_classes=3, seed=5) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_lightgbm_splits_with_few_clips() -> None:
    features, given, folds = blobs(96, 6, dim=12)
    votes = out_of_fold_votes(features, given, folds, LightGbmConfig(), n_classes=6)
    assert np.mean(votes.argmax(axis=1) == given) > 0.6  # with leaves of 30 clips: about chance


def test_invalid_features_raise_value_error() -> None:
    features, given, folds = blobs(12, 2)
    voter = LinearConfig()
    with pytest.raises(ValueError, match="do not match"):
        out_of_fold_votes(features, given[:-1], folds, voter, n_classes=2)
    with pytest.raises(ValueError, match="1 classes"):
        out_of_fold_votes(features, given, folds, voter, n_classes=1)
    features[0, 0] = np.inf
    with pytest.raises(ValueError, match="infinite"):
        out_of_fold_votes(features, given, folds, voter, n_classes=2)


def test_projected_training_rows_are_those_that_the_projection_returns() -> None:
    features, _, _ = blobs(60, 3)
    training = features.astype(np.float64)
    projected, project = fit_projection(training, 4)
    assert projected.shape == (60, 4)
    np.testing.assert_allclose(project(training[:5]), projected[:5])


@pytest.mark.parametrize("voter", [LinearConfig(components=3), LightGbmConfig(rounds=5)])
def test_votes_do_not_depend_on_the_blocks_of_clips(monkeypatch: pytest.MonkeyPatch, voter: VoterConfig) -> None:
    features, given, folds = blobs(60, 3)
    whole = out_of_fold_votes(features, given, folds, voter, n_classes=3)
    monkeypatch.setattr(voters, "_BLOCK", 7)
    np.testing.assert_allclose(out_of_fold_votes(features, given, folds, voter, n_classes=3), whole, atol=1e-12)


def test_class_weights_follow_the_balance_exponent() -> None:
    given = np.array([0, 0, 0, 1])
    assert_array_equal(clip_weights(given, 0.0), 1)
    balanced = clip_weights(given, 1.0)
    assert balanced[:3].sum() == pytest.approx(balanced[3])


def test_joined_modalities_include_masks_of_missing_ones() -> None:
    face = np.array([[1.0, 2.0], [3.0, 6.0], [np.nan, np.nan], [np.nan, np.nan]])
    text = np.array([[np.nan], [5.0], [7.0], [np.nan]])
    untouched = face.copy()
    rows = join_modalities({"face": face, "text": text})
    assert_array_equal(rows[0], [1, 2, 6, 1, 0])
    assert_array_equal(rows[1], [3, 6, 5, 1, 1])
    assert_array_equal(rows[2], [2, 4, 7, 0, 1])
    assert np.isnan(rows[3]).all()
    assert_array_equal(face, untouched)
