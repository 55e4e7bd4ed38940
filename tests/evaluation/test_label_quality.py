"""Metrics of `evaluate` on the label model, the baselines and the sources."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.label_quality import (
    COMBINE_VOTES,
    LABEL_MODEL,
    LabelEvidence,
    compare_methods,
    measure_calibration,
    measure_sources,
)
from ecmf_pipeline.labels.baselines import BASELINES, Baseline
from ecmf_pipeline.labels.config import LabelModelConfig
from ecmf_pipeline.labels.label_model import GIVEN
from ecmf_pipeline.report.blocks import Collapsible, Table
from ecmf_pipeline.report.refinement import evidence_blocks, vote_source_blocks
from tools.bench.labels.simulations import VoteSimulation, generate

LABELS = ["angry", "happy", "sad"]
CLIPS = 240
CONFIG = EvaluateConfig(draws=100)
FEW = {name: BASELINES[name] for name in ("majority", "weighted majority", "gold-only stack")}


@pytest.fixture
def few_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecmf_pipeline.evaluation.label_quality.BASELINES", FEW)


def make_evidence(*, gold: int, human_labels: int = 0) -> LabelEvidence:
    votes, truth = generate(VoteSimulation("evaluated", (0.8, 0.7, 0.6), classes=3, clips=CLIPS), 0)
    rng = np.random.default_rng(0)
    given = np.where(rng.random(CLIPS) < 0.2, (truth + 1) % 3, truth)
    given[200:] = -1
    rows = rng.permutation(CLIPS)
    known = np.full((2, CLIPS), -1)
    known[0, rows[:gold]] = truth[rows[:gold]]
    known[1, rows[gold : gold + human_labels]] = truth[rows[gold : gold + human_labels]]
    folds = np.arange(CLIPS) % 2
    return LabelEvidence(votes, given, known[1], known[0], folds, None, 0, LabelModelConfig())


@pytest.mark.usefixtures("few_baselines")
def test_the_label_model_is_compared_with_all_baselines() -> None:
    results = compare_methods(make_evidence(gold=200), CONFIG)
    assert results["clips"] == 200
    assert set(results["methods"]) == {LABEL_MODEL, COMBINE_VOTES, *FEW}
    assert results["left_out"] == {}
    assert not results["methods"][LABEL_MODEL]["learns"]  # there are no human labels
    assert results["methods"][LABEL_MODEL]["label_model_over"] == {"difference": 0, "low": 0, "high": 0}
    for method in results["methods"].values():
        assert method["accuracy"] > 0.7
        over = method["label_model_over"]
        assert over["low"] <= over["difference"] <= over["high"]
    tables = [block for block in evidence_blocks({"label_methods": results}) if isinstance(block, Table)]
    assert [len(table.rows) for table in tables] == [5]


@pytest.mark.usefixtures("few_baselines")
def test_with_few_known_labels_learning_methods_are_omitted() -> None:
    results = compare_methods(make_evidence(gold=0, human_labels=20), CONFIG)
    assert results["clips"] == 20
    assert set(results["methods"]) == {LABEL_MODEL, "majority"}
    assert set(results["left_out"]) == {"weighted majority", "gold-only stack"}
    text = str(evidence_blocks({"label_methods": results})[-1])
    assert "20 of 30 needed labels" in text
    without_labels = compare_methods(make_evidence(gold=0), CONFIG)
    assert without_labels == {"clips": 0, "methods": {}, "left_out": {}}
    assert evidence_blocks({"label_methods": without_labels}) == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    baselines = {"majority": BASELINES["majority"], "theirs": Baseline(BASELINES["majority"].combine, needs="no_such")}
    monkeypatch.setattr("ecmf_pipeline.evaluation.label_quality.BASELINES", baselines)
    results = compare_methods(make_evidence(gold=50), CONFIG)
    assert results["left_out"] == {"theirs": "the package no_such is not installed"}


def test_learning_methods_are_evaluated_out_of_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that repeats its training labels has chance accuracy."""

    def repeat_labels(_votes: object, gold: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where((gold >= 0)[:, None], np.eye(3)[gold], np.eye(3)[0])

    monkeypatch.setattr(
        "ecmf_pipeline.evaluation.label_quality.BASELINES", {"parrot": Baseline(repeat_labels, learns=True)}
    )
    monkeypatch.setattr(LabelEvidence, "posterior", lambda _, votes, human_labels: repeat_labels(votes, human_labels))
    evidence = make_evidence(gold=100, human_labels=100)
    results = compare_methods(evidence, CONFIG)
    share = (evidence.known == 0).sum() / (evidence.known >= 0).sum()
    assert results["methods"]["parrot"]["accuracy"] == pytest.approx(share, abs=1e-6)
    assert results["methods"][LABEL_MODEL]["accuracy"] == pytest.approx(share, abs=1e-6)


def test_calibration_uses_gold_labels_of_clips_without_a_human_label() -> None:
    scores = measure_calibration(make_evidence(gold=120, human_labels=20))
    assert scores is not None
    assert scores["clips"] == 120
    assert scores["accuracy"] > 0.8
    assert measure_calibration(make_evidence(gold=0, human_labels=20)) is None


def test_source_metrics_are_plain_json() -> None:
    metrics = measure_sources(make_evidence(gold=200), LABELS)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["judged_by"] == "gold"
    assert set(metrics["sources"]) == {"source0", "source1", "source2", GIVEN}
    given = metrics["sources"][GIVEN]
    assert given["low"] < given["reliability"] < given["high"]
    assert given["reliability"] == pytest.approx(0.8, abs=0.07)
    assert given["coverage"] == pytest.approx(200 / 240, abs=1e-6)
    assert set(given["error_correlation"]) == {"source0", "source1", "source2"}
    assert np.asarray(given["confusion"]).sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-3)
    heading, paragraph, table, correlations, folded = vote_source_blocks(metrics)
    assert "known to be right" in str(paragraph)
    assert isinstance(table, Table)
    assert isinstance(correlations, Table)
    assert isinstance(folded, Collapsible)
    assert len(table.rows) == len(correlations.rows) == len(folded.blocks) == 4
    assert "voted as" in str(table.rows[0][4])
    assert heading is not None


def test_with_few_known_labels_sources_are_compared_with_the_combined_votes() -> None:
    metrics = measure_sources(make_evidence(gold=10), LABELS)
    assert metrics["judged_by"] == "votes"
    assert (metrics["known"], metrics["needed"]) == (10, 30)
    assert metrics["sources"]["source0"]["votes"] > 150
    assert "10 of 30 needed labels" in str(vote_source_blocks(metrics)[1])
    assert vote_source_blocks(None) == []


@pytest.mark.usefixtures("few_baselines")
def test_verdicts_that_are_the_given_labels_are_not_a_source_too() -> None:
    evidence = make_evidence(gold=0, human_labels=120)
    given = replace(evidence, given=evidence.human_labels, given_are_human=True)
    without = replace(evidence, given=np.full(CLIPS, -1))
    for name, scores in compare_methods(given, CONFIG)["methods"].items():
        assert scores["accuracy"] < 1, name
    assert GIVEN not in measure_sources(given, LABELS)["sources"]
    hidden = np.full(CLIPS, -1)
    np.testing.assert_allclose(given.posterior(given.votes, hidden), without.posterior(given.votes, hidden))


@pytest.mark.usefixtures("few_baselines")
def test_methods_are_compared_on_a_sample_of_a_large_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecmf_pipeline.evaluation.label_quality.COMPARED", 60)
    evidence = make_evidence(gold=200)
    sample = evidence.sampled(60, np.random.default_rng(CONFIG.seed))
    assert ((sample.gold >= 0).sum(), (sample.gold < 0).sum()) == (60, 40)
    row_of = {row.tobytes(): number for number, row in enumerate(np.hstack(list(evidence.votes.values())))}
    rows = [row_of[row.tobytes()] for row in np.hstack(list(sample.votes.values()))]
    np.testing.assert_array_equal(evidence.given[rows], sample.given)
    assert compare_methods(evidence, CONFIG)["clips"] == 60
