from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given as sample
from hypothesis import settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import expected_calibration_error
from ecmf_pipeline.labels.combining import combine_votes
from ecmf_pipeline.labels.majority import count_votes
from ecmf_pipeline.labels.unsupervised import independent_sources
from ecmf_pipeline.labels.votes import first_choice, stack_votes
from tools.bench.labels.simulations import VOTE_SIMULATIONS, VoteSimulation, generate, gold_sample

Simulate = Callable[..., Any]
WORLDS_BY_NAME = {world.name: world for world in VOTE_SIMULATIONS}
TESTED = ("plain", "one label each", "errors in common", "twins")


def majority_labels(votes: dict[str, NDArray[np.float64]]) -> NDArray[np.int64]:
    hard_votes = np.stack([first_choice(probs) for probs in votes.values()], axis=1)
    classes = next(iter(votes.values())).shape[1]
    tally = (hard_votes[:, :, None] == np.arange(classes)).sum(axis=1)
    mean = np.nan_to_num(np.stack(list(votes.values()))).mean(axis=0)
    return np.asarray((tally + 0.1 * mean).argmax(axis=1))


@settings(max_examples=25, deadline=None)
@sample(st.integers(0, 10_000), st.integers(0, 60), st.integers(1, 6), st.integers(1, 4))
def test_any_votes_give_distributions_and_inputs_are_unchanged(
    seed: int, clips: int, classes: int, sources: int
) -> None:
    rng = np.random.default_rng(seed)
    votes = {}
    for source in range(sources):
        probs = rng.dirichlet(np.full(classes, rng.choice([0.01, 0.5, 50.0])), clips).reshape(clips, classes)
        probs[rng.random(clips) < rng.choice([0.0, 0.3, 1.0])] = np.nan
        votes[f"s{source}"] = probs
    gold = np.where(rng.random(clips) < rng.choice([0.0, 0.5, 1.0]), rng.integers(0, classes, clips), -1)
    before, gold_before = {name: probs.copy() for name, probs in votes.items()}, gold.copy()
    combined = combine_votes(votes, gold)
    assert combined.probs.shape == (clips, classes)
    assert (combined.probs >= 0).all()
    assert_allclose(combined.probs.sum(axis=1), 1)
    assert_array_equal(combined.labels[gold >= 0], gold[gold >= 0])
    assert_array_equal(combined.labels, combined.probs.argmax(axis=1))
    assert_array_equal(combined.confidence, combined.probs.max(axis=1, initial=0.0))
    assert_array_equal(gold, gold_before)
    for name, probs in votes.items():
        assert_array_equal(probs, before[name])
    for source in combined.sources:
        assert (source.confusion_low <= source.confusion + 1e-9).all()
        assert (source.confusion <= source.confusion_high + 1e-9).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
def test_with_gold_labels_it_beats_majority_vote_and_is_calibrated(name: str) -> None:
    votes, truth = generate(WORLDS_BY_NAME[name], 3)
    gold = gold_sample(truth, 0.05, 3)
    combined = combine_votes(votes, gold)
    without_gold = gold < 0
    is_right = combined.labels == truth
    assert combined.calibrated
    assert is_right[without_gold].mean() > (majority_labels(votes) == truth)[without_gold].mean() + 0.03
    assert expected_calibration_error(combined.confidence[without_gold], is_right[without_gold]) < 0.06


@pytest.mark.parametrize("name", TESTED)
def test_without_gold_labels_it_is_at_least_as_good_as_majority_vote(name: str) -> None:
    votes, truth = generate(WORLDS_BY_NAME[name], 4)
    combined = combine_votes(votes, np.full(len(truth), -1))
    assert not combined.calibrated
    assert (combined.labels == truth).mean() > (majority_labels(votes) == truth).mean() - 0.005


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        (VoteSimulation("three", (0.7, 0.6, 0.5), classes=4, clips=1500), "3 of 4 sources needed"),
        (VoteSimulation("together", (0.6, 0.6, 0.5, 0.5), classes=4, clips=1500, family=0.8), "correlated"),
        (VoteSimulation("weak", (0.4, 0.35, 0.3, 0.3), classes=6, clips=1500, family=0.0), "depend on a single source"),
    ],
)
def test_majority_vote_is_used_if_too_few_sources_err_independently(world: VoteSimulation, reason: str) -> None:
    votes, truth = generate(world, 0)
    combined = combine_votes(votes, np.full(len(truth), -1))
    assert "majority vote (" in combined.method
    assert reason in combined.method
    assert_array_equal(combined.labels, count_votes(votes).argmax(axis=1))


def test_independent_sources_are_combined_by_dawid_skene() -> None:
    votes = generate(VoteSimulation("apart", (0.75, 0.7, 0.7, 0.65, 0.6, 0.6), clips=1500, shared=0.0, family=0.0), 0)[
        0
    ]
    assert "Dawid-Skene" in combine_votes(votes, np.full(1500, -1)).method


def test_twenty_gold_labels_improve_labels_without_calibration() -> None:
    votes, truth = generate(VoteSimulation("one good", (0.9, 0.4, 0.4), classes=4, clips=800), 0)
    gold = np.where(np.arange(800) < 20, truth, -1)
    with_gold, without_gold = combine_votes(votes, gold), combine_votes(votes, np.full(800, -1))
    evaluated = gold < 0
    assert (with_gold.labels == truth)[evaluated].mean() > (without_gold.labels == truth)[evaluated].mean() + 0.05
    assert not with_gold.calibrated
    assert "20 gold labels" in with_gold.method


def test_effective_number_of_independent_sources() -> None:
    truth = np.arange(3000) % 3
    rng = np.random.default_rng(0)

    def source() -> NDArray[np.float64]:
        return np.eye(3)[np.where(rng.random(3000) < 0.7, truth, (truth + 1) % 3)]

    first, second, third = source(), source(), source()
    for votes, expected in (
        ({"a": first, "b": second, "c": third}, 3.0),
        ({"a": first, "b": first, "c": first}, 1.0),
        ({"a": first, "b": first, "c": third}, 1.8),
    ):
        effective = independent_sources(stack_votes(votes, floor=1e-2), np.eye(3)[truth])
        assert effective == pytest.approx(expected, abs=0.15)


def test_gold_labels_are_kept_and_clips_without_votes_get_the_class_shares() -> None:
    votes, truth = generate(VoteSimulation("small", (0.7, 0.6, 0.5), clips=600), 0)
    gold = gold_sample(truth, 0.2, 0)
    without_votes = np.flatnonzero(gold < 0)[:5]
    for probs in votes.values():
        probs[without_votes] = np.nan
    combined = combine_votes(votes, gold)
    assert_array_equal(combined.labels[gold >= 0], gold[gold >= 0])
    assert_array_equal(combined.confidence[gold >= 0], 1.0)
    shares = np.bincount(gold[gold >= 0], minlength=6) + 1.0
    assert_allclose(combined.probs[without_votes], np.tile(shares / shares.sum(), (5, 1)))
    assert_allclose(combined.confidence[without_votes], (shares / shares.sum()).max())


def test_identical_inputs_give_identical_bytes() -> None:
    votes, truth = generate(VoteSimulation("small", (0.7, 0.6, 0.5), clips=400), 1)
    gold = gold_sample(truth, 0.3, 1)
    first, second = (combine_votes(votes, gold, seed=5) for _ in range(2))
    assert first.probs.tobytes() == second.probs.tobytes()
    assert first.method == second.method


def test_clip_order_has_almost_no_effect() -> None:
    votes, truth = generate(VoteSimulation("small", (0.7, 0.6, 0.5), clips=500), 2)
    gold = gold_sample(truth, 0.3, 2)
    combined = combine_votes(votes, gold)
    shuffled = np.random.default_rng(0).permutation(len(gold))
    again = combine_votes({name: probs[shuffled] for name, probs in votes.items()}, gold[shuffled])
    # The folds differ, so the blend differs slightly.
    assert np.mean(again.labels == combined.labels[shuffled]) > 0.97


def test_nine_gold_labels_only_replace_their_own_labels() -> None:
    votes, truth = generate(VoteSimulation("small", (0.7, 0.6, 0.5), clips=400), 3)
    gold = np.full(400, -1)
    gold[:9] = truth[:9]
    combined = combine_votes(votes, gold)
    assert not combined.calibrated
    assert_array_equal(combined.labels[:9], truth[:9])
    without_gold = combine_votes(votes, np.full(400, -1))
    voted = ~np.isnan(np.stack(list(votes.values()))).any(axis=2).all(axis=0)
    voted[:9] = False
    assert_array_equal(combined.probs[voted], without_gold.probs[voted])


def test_one_or_two_sources_are_averaged() -> None:
    first = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [np.nan] * 3])
    second = np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]])
    none = np.full(3, -1)
    assert_allclose(combine_votes({"only": first}, none).probs[:2], first[:2], atol=1e-6)
    assert_array_equal(combine_votes({"a": first, "b": second}, none).labels, [1, 2, 1])


def test_source_reports_match_gold_labels() -> None:
    votes, truth = generate(
        VoteSimulation("twins here", (0.8, 0.8, 0.4), clips=3000, shared=0.0, family=0.9, confusion=0.02), 0
    )
    gold = gold_sample(truth, 0.5, 0)
    known = gold >= 0
    report = {source.name: source for source in combine_votes(votes, gold).sources}
    for name, source in report.items():
        voted = known & ~np.isnan(votes[name]).any(axis=1)
        accuracy = (votes[name][voted].argmax(axis=1) == truth[voted]).mean()
        assert source.votes == voted.sum()
        assert source.reliability == pytest.approx(accuracy)
        assert source.reliability_interval[0] < accuracy < source.reliability_interval[1]
        assert source.coverage == pytest.approx((~np.isnan(votes[name]).any(axis=1)).mean())
        assert_allclose(source.confusion.sum(axis=1), 1)
        assert source.error_correlation[name] == pytest.approx(1.0)
    twins = report["source0"].error_correlation["source1"]
    assert twins > 0.5 > abs(report["source0"].error_correlation["source2"]) + 0.2


def test_confusion_intervals_have_their_nominal_coverage() -> None:
    covered, total = 0, 0
    for seed in range(8):
        votes, truth = generate(VoteSimulation("intervals", (0.7, 0.6, 0.5), classes=3, clips=2000), seed)
        gold = gold_sample(truth, 0.1, seed)
        source = combine_votes(votes, gold).sources[0]
        voted = ~np.isnan(votes["source0"]).any(axis=1)
        hard_votes = votes["source0"].argmax(axis=1)
        for row in range(3):
            of_class = voted & (truth == row)
            true = np.bincount(hard_votes[of_class], minlength=3) / of_class.sum()
            covered += int(((source.confusion_low[row] <= true) & (true <= source.confusion_high[row])).sum())
            total += 3
    assert covered / total > 0.88


def test_invalid_inputs_raise_value_error() -> None:
    good = np.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match="no source"):
        combine_votes({}, np.array([0, 1]))
    with pytest.raises(ValueError, match="same shape"):
        combine_votes({"a": good, "b": good[:, :2]}, np.array([0, 1]))
    with pytest.raises(ValueError, match="distribution"):
        combine_votes({"a": good * 2}, np.array([0, 1]))
    with pytest.raises(ValueError, match="from -1"):
        combine_votes({"a": good}, np.array([0, 3]))
    with pytest.raises(ValueError, match="from -1"):
        combine_votes({"a": good}, np.array([0, -2]))
    with pytest.raises(ValueError, match="2 integers"):
        combine_votes({"a": good}, np.array([0.0, 1.0]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 integers"):
        combine_votes({"a": good}, np.array([0]))


def test_importing_the_settings_loads_no_scipy_or_sklearn() -> None:
    code = "import sys, ecmf_pipeline.labels.config; sys.exit('scipy' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_blocks_and_a_sample_of_clips_hardly_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    votes, truth = generate(replace(WORLDS_BY_NAME["plain"], clips=1500), 0)
    gold = gold_sample(truth, 0.1, 0)
    whole = combine_votes(votes, gold)
    monkeypatch.setattr("ecmf_pipeline.labels.votes._BLOCK", 100)
    assert_allclose(combine_votes(votes, gold).probs, whole.probs, atol=1e-6)
    monkeypatch.setattr("ecmf_pipeline.labels.dawid_skene.FIT_SAMPLE", 700)
    sampled = combine_votes(votes, gold)
    assert (sampled.labels == whole.labels).mean() > 0.98
    assert not np.array_equal(sampled.probs, whole.probs)
