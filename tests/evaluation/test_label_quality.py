"""What `evaluate` says of the label model, the baselines and the sources."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.label_quality import (
    TAUGHT,
    USED,
    LabelEvidence,
    belief,
    methods,
    sources,
)
from ecmf_pipeline.labels.baselines import BASELINES, Baseline
from ecmf_pipeline.labels.config import LabelModelConfig
from ecmf_pipeline.labels.label_model import GIVEN
from ecmf_pipeline.report.blocks import Folded, Table
from ecmf_pipeline.report.refinement import proof_blocks, vote_source_blocks
from tools.bench.labels.worlds import World, generate

LABELS = ["angry", "happy", "sad"]
CLIPS = 240
CONFIG = EvaluateConfig(draws=100)
FEW = {name: BASELINES[name] for name in ("majority", "weighted majority", "gold-only stack")}


@pytest.fixture
def few_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecmf_pipeline.evaluation.label_quality.BASELINES", FEW)


def evidence(*, gold: int, verdicts: int = 0) -> LabelEvidence:
    votes, truth = generate(World("evaluated", (0.8, 0.7, 0.6), classes=3, clips=CLIPS), 0)
    rng = np.random.default_rng(0)
    given = np.where(rng.random(CLIPS) < 0.2, (truth + 1) % 3, truth)
    given[200:] = -1
    rows = rng.permutation(CLIPS)
    known = np.full((2, CLIPS), -1)
    known[0, rows[:gold]] = truth[rows[:gold]]
    known[1, rows[gold : gold + verdicts]] = truth[rows[gold : gold + verdicts]]
    folds = np.arange(CLIPS) % 2
    return LabelEvidence(votes, given, known[1], known[0], folds, None, 0, LabelModelConfig())


@pytest.mark.usefixtures("few_baselines")
def test_the_label_model_stands_beside_every_baseline() -> None:
    found = methods(evidence(gold=200), CONFIG)
    assert found["clips"] == 200
    assert set(found["methods"]) == {USED, TAUGHT, *FEW}
    assert found["left_out"] == {}
    assert not found["methods"][USED]["learns"]  # there are no verdicts
    assert found["methods"][USED]["label_model_over"] == {"difference": 0, "low": 0, "high": 0}
    for one in found["methods"].values():
        assert one["accuracy"] > 0.7
        over = one["label_model_over"]
        assert over["low"] <= over["difference"] <= over["high"]
    tables = [block for block in proof_blocks({"label_methods": found}) if isinstance(block, Table)]
    assert [len(table.rows) for table in tables] == [5]


@pytest.mark.usefixtures("few_baselines")
def test_with_few_known_labels_nothing_learns_from_them() -> None:
    found = methods(evidence(gold=0, verdicts=20), CONFIG)
    assert found["clips"] == 20
    assert set(found["methods"]) == {USED, "majority"}
    assert set(found["left_out"]) == {"weighted majority", "gold-only stack"}
    text = str(proof_blocks({"label_methods": found})[-1])
    assert "needs 30 labels" in text
    nothing = methods(evidence(gold=0), CONFIG)
    assert nothing == {"clips": 0, "methods": {}, "left_out": {}}
    assert proof_blocks({"label_methods": nothing}) == []


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"majority": BASELINES["majority"], "theirs": Baseline(BASELINES["majority"].combine, needs="no_such")}
    monkeypatch.setattr("ecmf_pipeline.evaluation.label_quality.BASELINES", absent)
    found = methods(evidence(gold=50), CONFIG)
    assert found["left_out"] == {"theirs": "the package no_such is not installed"}


def test_what_learns_never_sees_what_it_is_judged_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that repeats whatever labels it is handed is right by chance alone."""

    def parrot(_votes: object, gold: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where((gold >= 0)[:, None], np.eye(3)[gold], np.eye(3)[0])

    monkeypatch.setattr("ecmf_pipeline.evaluation.label_quality.BASELINES", {"parrot": Baseline(parrot, learns=True)})
    monkeypatch.setattr(LabelEvidence, "posterior", lambda _, votes, verdicts: parrot(votes, verdicts))
    one = evidence(gold=100, verdicts=100)
    found = methods(one, CONFIG)
    share = (one.known == 0).sum() / (one.known >= 0).sum()
    assert found["methods"]["parrot"]["accuracy"] == pytest.approx(share, abs=1e-6)
    assert found["methods"][USED]["accuracy"] == pytest.approx(share, abs=1e-6)


def test_belief_is_judged_by_gold_labels_without_a_verdict() -> None:
    found = belief(evidence(gold=120, verdicts=20))
    assert found is not None
    assert found["clips"] == 120
    assert found["accuracy"] > 0.8
    assert belief(evidence(gold=0, verdicts=20)) is None


def test_sources_are_accounted_for_in_plain_values() -> None:
    found = sources(evidence(gold=200), LABELS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["judged_by"] == "gold"
    assert set(found["sources"]) == {"source0", "source1", "source2", GIVEN}
    given = found["sources"][GIVEN]
    assert given["low"] < given["reliability"] < given["high"]
    assert given["reliability"] == pytest.approx(0.8, abs=0.07)
    assert given["coverage"] == pytest.approx(200 / 240, abs=1e-6)
    assert set(given["error_correlation"]) == {"source0", "source1", "source2"}
    assert np.asarray(given["confusion"]).sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-3)
    heading, paragraph, table, correlations, folded = vote_source_blocks(found)
    assert "known to be right" in str(paragraph)
    assert isinstance(table, Table)
    assert isinstance(correlations, Table)
    assert isinstance(folded, Folded)
    assert len(table.rows) == len(correlations.rows) == len(folded.blocks) == 4
    assert "taken for" in str(table.rows[0][4])
    assert heading is not None


def test_without_enough_known_labels_sources_are_judged_by_all_votes_together() -> None:
    found = sources(evidence(gold=10), LABELS)
    assert found["judged_by"] == "votes"
    assert found["sources"]["source0"]["votes"] > 150
    assert "too few labels" in str(vote_source_blocks(found)[1])
    assert vote_source_blocks(None) == []
