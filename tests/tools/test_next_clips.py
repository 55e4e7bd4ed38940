"""Tests of the rules of `tools.bench.labels.next_clips`."""

from __future__ import annotations

import numpy as np
import pytest

from ecmf_pipeline.labels.baselines import mean_probs
from tools.bench.labels.next_clips import RULES
from tools.bench.labels.simulations import VoteSimulation, generate


@pytest.mark.parametrize("name", RULES)
def test_each_rule_selects_the_requested_number_of_eligible_clips(name: str) -> None:
    if "cleanlab" in name:
        pytest.importorskip("cleanlab")
    votes, truth = generate(VoteSimulation("asked", (0.7, 0.6, 0.5), clips=300), 0)
    for probs in votes.values():
        probs[:4] = np.nan  # clips without votes
    probs = mean_probs(votes, np.full(300, -1))
    eligible = np.arange(300) % 2 == 0
    selected = RULES[name](votes, probs, eligible, 40, np.random.default_rng(0))
    assert len(set(selected)) == len(selected) == 40
    assert eligible[selected].all()
    wrong = probs.argmax(axis=1) != truth
    if name != "random":
        assert wrong[selected].mean() > wrong.mean()
