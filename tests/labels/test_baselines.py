"""Baselines agree with crowd-kit, beat the worst source, and use gold labels only if they declare it."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels import baselines
from ecmf_pipeline.labels.baselines import BASELINES, Votes
from ecmf_pipeline.labels.votes import ABSTAIN, first_choice
from tools.bench.labels.__main__ import WITHOUT_GOLD
from tools.bench.labels.simulations import VoteSimulation, generate, gold_sample, random_simulations

WORLD = VoteSimulation("small", (0.75, 0.6, 0.5, 0.4), clips=1500, soft=False)


def combine_with_crowd_kit(votes: Votes, method: str, fixed: Ints | None = None) -> Floats:
    from crowdkit import aggregation

    hard_votes = np.stack([first_choice(probs) for probs in votes.values()], axis=1)
    clips, sources = np.nonzero(hard_votes != ABSTAIN)
    table = pd.DataFrame({"task": clips, "worker": sources, "label": hard_votes[clips, sources]})
    model = getattr(aggregation, method)(n_iter=100)
    fixed = np.full(len(hard_votes), -1) if fixed is None else fixed
    has_gold = np.flatnonzero(fixed >= 0)
    gold = {"true_labels": pd.Series(fixed[has_gold], index=has_gold)} if len(has_gold) else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # crowd-kit uses deprecated functions of pandas
        probs = model.fit_predict_proba(table, **gold)
    return np.asarray(baselines.scores_to_probs(probs, next(iter(votes.values())).shape))


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_dawid_skene_agrees_with_crowd_kit(share: float) -> None:
    votes, truth = generate(WORLD, 0)
    gold = gold_sample(truth, share, 0)
    ours = baselines.dawid_skene(votes, gold).argmax(axis=1)
    theirs = combine_with_crowd_kit(votes, "DawidSkene", gold).argmax(axis=1)
    assert (ours == theirs)[gold < 0].mean() > 0.98


def test_one_coin_agrees_with_crowd_kit() -> None:
    votes, truth = generate(WORLD, 1)
    none = np.full(len(truth), -1)
    ours = baselines.one_coin(votes, none)
    theirs = combine_with_crowd_kit(votes, "OneCoinDawidSkene")
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() > 0.98
    assert np.abs(ours - theirs).mean() < 0.02


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_return_distributions_and_beat_the_worst_source(name: str) -> None:
    baseline = BASELINES[name]
    votes, truth = generate(WORLD, 2)
    votes["source0"][:3] = votes["source1"][:3] = votes["source2"][:3] = votes["source3"][:3] = np.nan
    gold = gold_sample(truth, 0.1, 2)
    before = {source: probs.copy() for source, probs in votes.items()}
    probs = baseline.combine(votes, gold)
    assert probs.shape == (1500, 6)
    assert_allclose(probs.sum(axis=1), 1)
    without_gold = gold < 0
    worst = votes["source3"]
    voted = without_gold & ~np.isnan(worst).any(axis=1)
    assert (probs.argmax(axis=1) == truth)[voted].mean() > (np.nan_to_num(worst).argmax(axis=1) == truth)[voted].mean()
    for source, rows in votes.items():
        assert_array_equal(rows, before[source])


@pytest.mark.parametrize("name", [name for name, baseline in BASELINES.items() if not baseline.learns])
def test_baselines_that_do_not_learn_ignore_gold_labels(name: str) -> None:
    votes, truth = generate(WORLD, 3)
    without, with_gold = (BASELINES[name].combine(votes, gold) for gold in (np.full(1500, -1), truth))
    assert_array_equal(without, with_gold)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_accept_a_single_source_and_a_source_without_votes(name: str) -> None:
    votes, truth = generate(VoteSimulation("short", (0.8, 0.7), classes=3, clips=200), 5)
    gold = gold_sample(truth, 0.3, 5)
    single = {"source0": votes["source0"]}
    probs = BASELINES[name].combine(single, gold)
    assert (probs.argmax(axis=1) == truth).mean() > 0.6
    assert BASELINES[name].combine({**votes, "silent": np.full((200, 3), np.nan)}, gold).shape == (200, 3)


def test_dawid_skene_works_without_gold_labels() -> None:
    assert {name for name, baseline in BASELINES.items() if not baseline.learns} < set(WITHOUT_GOLD)
    votes, truth = generate(WORLD, 4)
    probs = baselines.dawid_skene(votes, np.full(1500, -1))
    assert (probs.argmax(axis=1) == truth).mean() > 0.6


def test_random_benchmark_settings_are_distinct_and_reproducible() -> None:
    worlds = random_simulations(20, 100)
    assert worlds == random_simulations(20, 100)
    assert worlds != random_simulations(20, 101)
    assert len({world.name for world in worlds}) == 20
    assert {len(world.skills) for world in worlds} <= set(range(3, 9))
    for world in worlds:
        assert world.shared + world.family <= 0.9
        assert min(world.skills) > 1 / world.classes
