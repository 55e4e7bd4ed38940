from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given as sample
from hypothesis import settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from ecmf_pipeline.core.arrays import expected_calibration_error
from ecmf_pipeline.labels.label_model import Assessment
from ecmf_pipeline.labels.votes import ABSTAIN, NoisyLikelihood, first_choice
from tests.labels.default_model import assess_by_default

Simulate = Callable[..., Any]


def draw(seed: int, clips: int, classes: int, sources: int) -> tuple[dict[str, Any], Any, Any]:
    """Draw votes of all kinds: sharp, flat and missing, some clips and sources without any vote."""
    rng = np.random.default_rng(seed)
    votes = {}
    for source in range(sources):
        probs = rng.dirichlet(np.full(classes, rng.choice([0.01, 0.5, 50.0])), clips)
        probs[rng.random(clips) < rng.choice([0.0, 0.3, 1.0])] = np.nan
        votes[f"s{source}"] = probs
    return votes, rng.integers(-1, classes, clips), rng.integers(0, 3, clips)


@settings(max_examples=25, deadline=None)
@sample(st.integers(0, 10_000), st.integers(1, 25), st.integers(1, 6), st.integers(1, 4))
def test_any_votes_give_distributions_and_inputs_are_unchanged(
    seed: int, clips: int, classes: int, sources: int
) -> None:
    votes, given, folds = draw(seed, clips, classes, sources)
    before = {name: probs.copy() for name, probs in votes.items()}
    combined = assess_by_default(votes, given, folds=folds)
    for rows in (combined.probs, combined.posterior):
        assert rows.shape == (clips, classes)
        assert (rows >= 0).all()
        assert_allclose(rows.sum(axis=1), 1)
    assert_array_equal(combined.probs[given < 0], combined.posterior[given < 0])
    assert_allclose(combined.transition.sum(axis=1), 1)
    assert ((combined.confidence > 0) & (combined.confidence <= 1 + 1e-9)).all()
    for name, probs in votes.items():
        assert_array_equal(probs, before[name])


@settings(max_examples=25, deadline=None)
@sample(st.integers(0, 10_000), st.integers(1, 25), st.integers(2, 6), st.integers(1, 4))
def test_log_odds_are_the_sum_of_prior_given_label_and_votes(seed: int, clips: int, classes: int, sources: int) -> None:
    votes, given, folds = draw(seed, clips, classes, sources)
    combined = assess_by_default(votes, given, folds=folds)
    rows, labels = np.arange(clips), np.full(clips, seed % classes)
    rivals = (labels + 1) % classes
    parts = combined.log_odds(labels, rivals)
    odds = combined.posterior[rows, labels] / combined.posterior[rows, rivals]
    assert_allclose(parts.total, np.log(odds), atol=1e-9)
    unlabelled, voted = given < 0, combined.n_voting > 0
    assert_allclose(parts.given[unlabelled], 0, atol=1e-9)
    assert_allclose(parts.sources[~voted], 0, atol=1e-9)
    for row in rows[unlabelled]:  # they are scored by the pool whose weights are reported
        weighted = sum(
            source.weight
            * float(np.subtract(*np.log(np.clip(votes[source.name][row, [labels[row], rivals[row]]], 1e-3, 1))))
            for source in combined.sources
            if combined.votes[source.name][row] != ABSTAIN
        )
        assert parts.sources[row] == pytest.approx(weighted, abs=1e-6)
    for fold in np.unique(folds[~unlabelled]):  # the other parts are the same on each clip of a fold
        in_fold = ~unlabelled & (folds == fold)
        for label in np.unique(given[in_fold]):
            assert_allclose(np.ptp(parts.given[in_fold & (given == label)]), 0, atol=1e-9)
        if (in_fold & voted).any():
            assert_allclose(np.ptp(parts.prior[in_fold & voted]), 0, atol=1e-9)


@settings(max_examples=15, deadline=None)
@sample(st.integers(0, 10_000))
def test_clip_order_has_no_effect(seed: int) -> None:
    votes, given, folds = draw(seed, 40, 4, 3)
    order = np.random.default_rng(seed).permutation(40)
    ordered = assess_by_default(votes, given, folds=folds)
    shuffled = assess_by_default(
        {name: probs[order] for name, probs in votes.items()}, given[order], folds=folds[order]
    )
    assert_allclose(shuffled.posterior, ordered.posterior[order], atol=2e-3)


def test_probs_do_not_depend_on_the_clips_own_given_label(simulate: Simulate) -> None:
    world = simulate(0, 96)
    folds = np.arange(96) % 5
    before = assess_by_default(world.votes, world.given, folds=folds)
    flipped = world.given.copy()
    flipped[11] = (flipped[11] + 1) % 6
    after = assess_by_default(world.votes, flipped, folds=folds)
    assert_array_equal(after.probs[folds == folds[11]], before.probs[folds == folds[11]])
    assert after.posterior[11, flipped[11]] > before.posterior[11, flipped[11]]


def test_identical_inputs_give_identical_bytes(simulate: Simulate) -> None:
    world = simulate(1, 60, unlabeled=20)
    first, second = (assess_by_default(world.votes, world.given, seed=3) for _ in range(2))
    assert first.posterior.tobytes() == second.posterior.tobytes()
    assert first.sources == second.sources


def test_combined_labels_are_more_accurate_than_given_labels(simulate: Simulate) -> None:
    gains, errors = [], []
    for seed in range(8):
        world = simulate(seed, 96)
        combined = assess_by_default(world.votes, world.given, seed=seed)
        right = combined.labels == world.truth
        gains.append(right.mean() - (world.given == world.truth).mean())
        errors.append(expected_calibration_error(combined.confidence, right))
    assert np.mean(gains) > 3 * np.std(gains) / np.sqrt(len(gains))  # beyond chance
    assert np.mean(gains) > 0.05
    assert np.mean(errors) < 0.06


def test_it_beats_each_source_and_estimates_the_noise_rate(simulate: Simulate) -> None:
    world = simulate(3, 1500)
    combined = assess_by_default(world.votes, world.given)
    best = max(np.mean(first_choice(probs) == world.truth) for probs in world.votes.values())
    assert np.mean(combined.probs.argmax(axis=1) == world.truth) > best
    assert expected_calibration_error(combined.confidence, combined.labels == world.truth) < 0.03
    assert np.diag(combined.transition).mean() == pytest.approx(0.85, abs=0.04)


def test_gradient_matches_finite_differences() -> None:
    rng = np.random.default_rng(0)
    likelihood = NoisyLikelihood(rng.normal(size=(30, 2, 3)), rng.integers(0, 3, 30), np.log([0.2, 0.3, 0.5]))
    parameters = rng.normal(size=15)
    _, gradient = likelihood(parameters)
    step = 1e-6 * np.eye(15)
    measured = [(likelihood(parameters - s)[0] - likelihood(parameters + s)[0]) / 2e-6 for s in step]
    assert_allclose(gradient, measured, rtol=1e-5, atol=1e-6)


def test_clean_labels_are_kept(simulate: Simulate) -> None:
    world = simulate(4, 1000, noise=0.0)
    combined = assess_by_default(world.votes, world.given)
    assert np.mean(combined.labels == world.truth) > 0.99
    assert np.diag(combined.transition).mean() > 0.96


def test_copies_of_a_source_do_not_outvote_other_sources(simulate: Simulate) -> None:
    world = simulate(5, 600)
    three_sources = {name: world.votes[name] for name in ("face_linear", "global_linear", "llm")}
    with_copies = three_sources | {f"copy{i}": world.votes["global_linear"] for i in range(8)}
    expected, combined = assess_by_default(three_sources, world.given), assess_by_default(with_copies, world.given)
    assert np.mean(combined.labels == world.truth) > np.mean(expected.labels == world.truth) - 0.01
    assert expected_calibration_error(combined.confidence, combined.labels == world.truth) < 0.05


def test_a_noise_source_gets_a_low_weight(simulate: Simulate) -> None:
    world = simulate(6, 400)
    noise = np.random.default_rng(0).dirichlet(np.full(6, 0.1), 400)
    combined = assess_by_default({"face": world.votes["face_linear"], "noise": noise}, world.given)
    face, noise_source = combined.sources
    assert noise_source.weight < 0.2 * face.weight
    assert noise_source.accuracy < 0.3 < face.accuracy


def test_abstentions_carry_no_information(simulate: Simulate) -> None:
    world = simulate(7, 96, unlabeled=10)
    abstentions = np.full_like(world.votes["llm"], np.nan)
    votes = {name: probs.copy() for name, probs in world.votes.items()} | {"silent": abstentions}
    for probs in votes.values():
        probs[[5, 100]] = np.nan
    combined = assess_by_default(votes, world.given)
    assert_array_equal(combined.n_voting[[5, 100]], 0)
    shares = np.bincount(world.given[world.given >= 0], minlength=6) / 96
    assert_allclose(combined.probs[100], shares, atol=0.02)  # without votes: the prior
    assert combined.labels[5] == world.given[5]
    abstaining_source = combined.sources[-1]
    assert abstaining_source.coverage == 0
    assert np.isnan([abstaining_source.agreement, abstaining_source.accuracy]).all()
    assert (combined.votes["silent"] == ABSTAIN).all()


def test_a_class_without_given_labels_can_be_predicted() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 80)
    probs = 0.9 * np.eye(4)[truth] + 0.025
    given = np.where(truth == 3, -1, truth)
    combined = assess_by_default({"a": probs, "b": probs[:, :]}, given)
    assert np.isfinite(combined.posterior).all()
    assert (combined.labels[truth == 3] == 3).mean() > 0.9


def test_one_source_without_given_labels_is_enough() -> None:
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [np.nan] * 3])
    combined = assess_by_default({"only": probs}, np.full(3, -1))
    assert_array_equal(combined.labels[:2], [0, 2])
    assert_allclose(combined.probs[2], 1 / 3)
    assert_array_equal(combined.n_votes_for(combined.labels), [1, 1, 0])
    assert_array_equal(combined.n_voting, [1, 1, 0])


def test_invalid_votes_raise_value_error() -> None:
    good = np.full((2, 3), 1 / 3)
    given = np.array([0, 1])
    with pytest.raises(ValueError, match="no source"):
        assess_by_default({}, given)
    with pytest.raises(ValueError, match="same shape"):
        assess_by_default({"a": good, "b": good[:, :2]}, given)
    with pytest.raises(ValueError, match="distribution"):
        assess_by_default({"a": good * 2}, given)
    with pytest.raises(ValueError, match="distribution"):
        assess_by_default({"a": np.array([[np.nan, 0.5, 0.5], [1, 0, 0]])}, given)
    with pytest.raises(ValueError, match="do not match"):
        assess_by_default({"a": good}, np.array([0, 3]))


def test_given_labels_do_not_calibrate(simulate: Simulate) -> None:
    world = simulate(0, 30)
    combined: Assessment = assess_by_default(world.votes, world.given)
    assert not combined.calibrated
