"""The rules that `tools.bench.labels.next_clips` compares ask for what they may ask for."""

from __future__ import annotations

import numpy as np
import pytest

from ecmf_pipeline.labels.baselines import mean_probs
from tools.bench.labels.next_clips import RULES
from tools.bench.labels.worlds import World, generate


@pytest.mark.parametrize("name", RULES)
def test_each_rule_names_as_many_open_clips_as_it_is_asked_for(name: str) -> None:
    if "cleanlab" in name:
        pytest.importorskip("cleanlab")
    votes, truth = generate(World("asked", (0.7, 0.6, 0.5), clips=300), 0)
    for probs in votes.values():
        probs[:4] = np.nan  # clips that nobody votes on
    probs = mean_probs(votes, np.full(300, -1))
    asked_for = np.arange(300) % 2 == 0
    asked = RULES[name](votes, probs, asked_for, 40, np.random.default_rng(0))
    assert len(set(asked)) == len(asked) == 40
    assert asked_for[asked].all()
    wrong = probs.argmax(axis=1) != truth
    if name != "chance":
        assert wrong[asked].mean() > wrong.mean()
