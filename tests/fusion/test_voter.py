"""The fusion as a voter of `vote`'s rounds."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.training import FusionVoter
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.voters import Panel, held_out_score, vote_in_rounds

CLIPS = 48
LABELS = ("happy", "sad")


def voter() -> tuple[FusionVoter, NDArray[np.int64], NDArray[np.int64]]:
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


def test_it_judges_every_clip_by_models_that_saw_no_label_of_its_fold() -> None:
    fusion, truth, folds = voter()
    given = truth.copy()
    given[40:] = -1
    probs = fusion.votes(given, folds)
    assert np.isnan(probs[4]).all()
    judged = np.arange(CLIPS) != 4
    assert (probs[judged].argmax(axis=1) == truth[judged]).mean() > 0.8
    spoiled = np.where((folds == 1) & (given >= 0), 1 - given, given)
    after = fusion.votes(spoiled, folds)
    assert_array_equal(probs[folds == 1], after[folds == 1])
    assert not np.array_equal(probs[folds == 0], after[folds == 0])


def test_it_obeys_the_weights_of_each_fold_and_abstains_where_nothing_can_be_learned() -> None:
    fusion, truth, folds = voter()
    wrong = np.where(np.arange(CLIPS) % 4 < 2, truth, 1 - truth)
    right = (wrong == truth).astype(np.float64)
    probs = fusion.votes(wrong, folds, dict.fromkeys(range(3), right))
    judged = np.arange(CLIPS) != 4
    assert (probs[judged].argmax(axis=1) == truth[judged]).mean() > 0.8
    one_class = fusion.votes(np.zeros(CLIPS, np.int64), folds)
    assert np.isnan(one_class).all()


def test_it_takes_part_in_the_rounds() -> None:
    fusion, truth, folds = voter()
    always = iter(range(100))
    panel = Panel({}, {}, 2, 0, {"fusion": fusion.votes})
    found = vote_in_rounds(panel, truth, folds, rounds=2, score=lambda _: float(next(always)), config=RefineConfig())
    assert found.best == 2
    assert set(found.votes) == {"fusion"}
    score = partial(held_out_score, given=truth, verdicts=np.full(CLIPS, -1))
    assert len(vote_in_rounds(panel, truth, folds, rounds=1, score=score, config=RefineConfig()).scores) == 1
