"""Tests of counting votes: shares, and ties, which the reliability of the sources decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import example as sample
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.baselines import majority, mean_probs, weighted_majority
from ecmf_pipeline.labels.combining import combine_votes
from ecmf_pipeline.labels.majority import break_ties, count_votes, source_agreement

RELIABILITIES = (0.55, 0.7, 0.85)
"""Known reliabilities of three independent sources; the last one must win ties."""


def draw(seed: int, reliabilities: tuple[float, ...], *, clips: int = 3000, classes: int = 5) -> tuple[Any, Ints]:
    """Return hard votes of independent sources, whose errors are spread evenly over the classes, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, clips)
    votes = {}
    for number, reliability in enumerate(reliabilities):
        wrong = (truth + rng.integers(1, classes, clips)) % classes
        label = np.where(rng.random(clips) < reliability, truth, wrong)
        votes[f"s{number}"] = np.eye(classes)[label]
    return votes, truth


def without_gold(votes: dict[str, Floats]) -> NDArray[np.int64]:
    return combine_votes(votes, np.full(len(next(iter(votes.values()))), -1)).labels


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_ties_go_to_the_most_reliable_source(seed: int, order: tuple[int, ...]) -> None:
    votes, truth = draw(seed, tuple(RELIABILITIES[source] for source in order))
    best = f"s{order.index(2)}"
    assert max(votes, key=dict(zip(votes, source_agreement(votes), strict=True)).get) == best
    labels = np.stack([probs.argmax(axis=1) for probs in votes.values()])
    tied = (labels[0] != labels[1]) & (labels[1] != labels[2]) & (labels[0] != labels[2])
    assert tied.mean() > 0.08
    expected = votes[best].argmax(axis=1)[tied]
    for winner in (count_votes(votes).argmax(axis=1), without_gold(votes), mean_probs(votes, truth).argmax(axis=1)):
        assert_array_equal(winner[tied], expected)
    by_class_order = np.stack(list(votes.values())).sum(axis=0).argmax(axis=1)
    assert (without_gold(votes) == truth).mean() > (by_class_order == truth).mean() + 0.01


def test_every_method_that_counts_votes_breaks_ties_alike() -> None:
    votes, _ = draw(0, RELIABILITIES)
    no_gold = np.full(3000, -1)
    expected = count_votes(votes).argmax(axis=1)
    assert_array_equal(majority(votes, no_gold).argmax(axis=1), expected)
    assert_array_equal(weighted_majority(votes, no_gold).argmax(axis=1), expected)  # equal weights without gold labels
    assert_array_equal(without_gold(votes), expected)


@settings(max_examples=60, deadline=None)
@sample(seed=0, sources=3, classes=3, soft=False)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 5), st.booleans())
def test_order_of_sources_and_classes_has_no_effect(seed: int, sources: int, classes: int, soft: bool) -> None:
    rng = np.random.default_rng(seed)
    votes: dict[str, Floats] = {}
    for source in range(sources):
        probs = rng.dirichlet(np.ones(classes), 40).round(1) if soft else np.eye(classes)[rng.integers(0, classes, 40)]
        probs[probs.sum(axis=1) == 0] = 1.0
        probs /= probs.sum(axis=1, keepdims=True)
        probs[rng.random(40) < 0.2] = np.nan
        votes[f"s{source}"] = probs
    highest = [(probs >= probs.max(axis=1, keepdims=True) - 1e-9).astype(float) for probs in votes.values()]
    totals = sum((part / np.maximum(part.sum(axis=1, keepdims=True), 1)).sum(axis=0) for part in highest)
    assume(len(set(np.round(totals, 6))) == classes)  # otherwise the last rule, the order of the classes, may apply
    shares = count_votes(votes)
    order, classes_order = rng.permutation(sources), rng.permutation(classes)
    names = list(votes)
    permuted = {names[source]: votes[names[source]][:, classes_order] for source in order}
    again = count_votes(permuted)
    assert_allclose(again, shares[:, classes_order], atol=1e-12)
    voted = ~np.isnan(np.stack(list(votes.values()))).all(axis=(0, 2))
    assert_array_equal(classes_order[again.argmax(axis=1)][voted], shares.argmax(axis=1)[voted])


def test_two_sources_that_differ_follow_their_probabilities_then_the_more_frequent_label() -> None:
    soft = {"a": np.array([[0.6, 0.4, 0.0]]), "b": np.array([[0.0, 0.9, 0.1]])}
    assert count_votes(soft).argmax() == 1
    names = ("first", "second")
    hard = {name: np.eye(3)[labels] for name, labels in zip(names, ([0, 2, 2], [1, 2, 0]), strict=True)}
    assert_array_equal(count_votes(hard).argmax(axis=1), [0, 2, 2])  # 2 has three votes, 0 two, 1 one


def test_equal_evidence_follows_the_order_of_the_classes() -> None:
    votes = {"a": np.eye(2)[[0, 1]], "b": np.eye(2)[[1, 0]]}
    assert_array_equal(count_votes(votes).argmax(axis=1), [0, 0])


def test_shares_sum_to_one_and_clips_without_votes_get_equal_shares() -> None:
    votes = {"a": np.array([[1.0, 0.0], [np.nan, np.nan]]), "b": np.array([[0.5, 0.5], [np.nan, np.nan]])}
    assert_allclose(count_votes(votes), [[0.75, 0.25], [0.5, 0.5]])


def test_scores_without_a_tie_are_unchanged() -> None:
    votes, _ = draw(1, RELIABILITIES, clips=50)
    scores = np.random.default_rng(0).dirichlet(np.ones(5), 50)
    assert break_ties(scores, votes) is scores
