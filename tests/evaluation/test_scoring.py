"""Scores of predictions and of refined labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from dvc_render.vega import VegaRenderer

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.scoring import Evaluator, evaluate, label_quality
from ecmf_pipeline.evaluation.summary import summary_metrics, write_plots
from ecmf_pipeline.labels.refine import Decision, LabelAction

LABELS = ("happy", "sad")
CONFIG = EvaluateConfig(draws=100)


def clip(name: str, given: str = "", gold: str = "", split: Split = Split.TRAIN, group: str = "") -> Clip:
    return Clip(ClipId(name), given_label=given, gold_label=gold, split=split, group=group)


def table(clips: Sequence[Clip], predicted: Sequence[str]) -> PredictionTable:
    probs = np.array([[0.9, 0.1] if label == "happy" else [0.1, 0.9] for label in predicted], np.float32)
    return PredictionTable(
        clip_ids=tuple(clip.clip_id for clip in clips),
        splits=tuple(clip.split.value for clip in clips),
        out_of_fold=np.ones(len(clips), bool),
        flags=("",) * len(clips),
        label_names=LABELS,
        probs=probs,
        modalities=("face",),
        modality_weights=np.ones((len(clips), 1), np.float32),
    )


NO_HUMAN_LABELS = np.full(5, -1)


def make_decision(name: str, old: str, new: str, weight: float, action: LabelAction = LabelAction.KEEP) -> Decision:
    split = Split.TRAIN if old else Split.CANDIDATE
    return Decision(ClipId(name), split, old, new, action, weight, 0.9, 1.0, "")


UNLABELLED = [make_decision(name, "", "", 0.0, LabelAction.LEAVE) for name in ("d", "e")]


@pytest.fixture
def clips() -> list[Clip]:
    return [
        clip("a", "happy", "happy", group="s1"),
        clip("b", "sad", "happy", group="s1"),
        clip("c", "sad", "sad", group="s2"),
        clip("d", "", "sad", Split.CANDIDATE, group="s2"),
        clip("e", "", "", Split.UNLABELED),
    ]


def test_gold_labels_are_used_if_there_are_any(clips):
    evaluator = Evaluator(clips, LABELS, CONFIG)
    assert evaluator.by == "gold"
    assert [clip.clip_id for clip in evaluator.clips] == ["a", "b", "c", "d"]
    assert evaluator.scores({"a": "happy", "b": "happy", "c": "sad", "d": "happy"})["accuracy"] == 0.75
    assert evaluator.scores({"d": "sad"}, Split.CANDIDATE)["weighted_f1"] == 1.0


def test_given_labels_are_used_without_gold_labels(clips):
    without_gold = [clip(c.clip_id, c.given_label, "", c.split) for c in clips]
    evaluator = Evaluator(without_gold, LABELS, CONFIG)
    assert evaluator.by == "given"
    assert len(evaluator.clips) == 3


def test_evaluation_has_all_scores(clips):
    good = table(clips, ["happy", "happy", "sad", "sad", "sad"])
    bad = table(clips, ["sad", "happy", "sad", "happy", "sad"])
    decisions = [
        make_decision("a", "happy", "happy", 1.0),
        make_decision("b", "sad", "happy", 1.0, LabelAction.RELABEL),
        make_decision("c", "sad", "sad", 1.0),
        *UNLABELLED,
    ]
    tables = {"fusion": good, "face": bad, "text": bad}
    results = evaluate(Evaluator(clips, LABELS, CONFIG), clips, tables, bad, decisions, NO_HUMAN_LABELS)
    assert results["model"] == "refined"
    assert (
        results["weighted_f1"]
        == results["fusion"]["refined"]["weighted_f1"]
        < results["fusion"]["given"]["weighted_f1"]
    )
    assert results["fusion_over_best_modality"]["difference"] > 0
    assert results["refined_over_given"]["difference"] < 0
    assert results["confusion"]["counts"] == [[1, 1], [1, 1]]
    assert set(results["by_split"]) == {"train", "candidate"}
    assert results["labels"]["fixed"] == 1


def test_without_gold_labels_there_is_no_label_quality(clips):
    without_gold = [clip(c.clip_id, c.given_label, "", c.split) for c in clips]
    good = table(without_gold, ["happy", "happy", "sad", "sad", "sad"])
    results = evaluate(
        Evaluator(without_gold, LABELS, CONFIG), without_gold, {"fusion": good}, good, [], NO_HUMAN_LABELS
    )
    assert results["labels"] is None
    assert results["fusion_over_best_modality"] is None


def test_label_quality_counts_fixed_and_broken_labels(clips):
    quality = label_quality(
        clips,
        [
            make_decision("a", "happy", "sad", 1.0, LabelAction.RELABEL),  # was right: broken
            make_decision("b", "sad", "happy", 0.8, LabelAction.RELABEL),  # was wrong: fixed
            make_decision("c", "sad", "", 0.0, LabelAction.DROP),  # was right: lost
            make_decision("d", "", "sad", 0.4, LabelAction.PSEUDO),
            make_decision("e", "", "sad", 0.4, LabelAction.PSEUDO),  # no gold label
        ],
        NO_HUMAN_LABELS,
        LABELS,
    )
    assert quality["given"] == {"clips": 3, "accuracy": 0.666667}
    assert quality["refined"] == {"clips": 2, "accuracy": 0.5}
    assert (quality["fixed"], quality["broken"], quality["dropped_wrong"], quality["dropped_right"]) == (1, 1, 0, 1)
    assert quality["pseudo"] == {"clips": 1, "accuracy": 1.0}
    assert {quality[f"{name}_by_verdicts"] for name in ("fixed", "broken", "pseudo")} == {0}


def test_labels_fixed_by_a_person_are_counted_separately(clips):
    decisions = [
        make_decision("a", "happy", "sad", 1.0, LabelAction.RELABEL),
        make_decision("b", "sad", "happy", 0.8, LabelAction.RELABEL),
        make_decision("c", "sad", "", 0.0, LabelAction.DROP),
        make_decision("d", "", "sad", 0.4, LabelAction.PSEUDO),
        make_decision("e", "", "", 0.0, LabelAction.LEAVE),
        make_decision("f", "sad", "happy", 0.8, LabelAction.RELABEL),
    ]
    all_clips = [*clips, clip("f", "sad", "happy")]
    quality = label_quality(all_clips, decisions, np.array([-1, 0, 1, -1, -1, -1]), LABELS)
    assert (quality["fixed"], quality["fixed_by_verdicts"]) == (2, 1)
    assert (quality["broken"], quality["broken_by_verdicts"]) == (1, 0)
    assert (quality["pseudo"]["clips"], quality["pseudo_by_verdicts"]) == (1, 0)
    quality = label_quality(all_clips, decisions, np.array([1, -1, -1, 1, -1, 1]), LABELS)
    assert quality["fixed_by_verdicts"] == 0, (
        "this human label is newer than the votes and differs from the refined label"
    )
    assert (quality["broken_by_verdicts"], quality["pseudo_by_verdicts"]) == (1, 1)


def test_labels_in_plots_cannot_end_the_script_that_dvc_writes(tmp_path: Path) -> None:
    names = ("</script><b>", "a.b[0]\"'\\")
    clips = [clip(str(row), name, name) for row, name in enumerate(names)]
    predicted = PredictionTable(
        clip_ids=("0", "1"),
        splits=("train", "train"),
        out_of_fold=np.ones(2, bool),
        flags=("", ""),
        label_names=names,
        probs=np.eye(2, dtype=np.float32),
        modalities=("face",),
        modality_weights=np.ones((2, 1), np.float32),
    )
    score = {"weighted_f1": 1.0}
    results = {"modalities": {"face": score}, "fusion": {"given": score}}
    write_plots(tmp_path, Evaluator(clips, names, CONFIG), predicted, results)
    with (tmp_path / "confusion.csv").open(encoding="utf-8", newline="") as file:
        rows = [row | {"rev": "workspace"} for row in csv.DictReader(file)]
    page = VegaRenderer(rows, "plot", template="confusion", x="predicted", y="actual").generate_html()
    assert "<b>" not in page
    assert page.count("</script>") == 1
    spec, _ = json.JSONDecoder().raw_decode(page[page.index("{") :])
    values = {value["actual"] for value in spec["data"]["values"]}
    assert names[1] in values
    assert len(values) == 2


def test_the_summary_has_ten_numbers_of_which_unknown_ones_are_left_out(clips):
    good = table(clips, ["happy", "happy", "sad", "sad", "sad"])
    bad = table(clips, ["sad", "happy", "sad", "happy", "sad"])
    decisions = [
        make_decision("a", "happy", "happy", 1.0),
        make_decision("b", "sad", "happy", 1.0, LabelAction.RELABEL),
        make_decision("c", "sad", "sad", 1.0),
        *UNLABELLED,
    ]
    evaluator = Evaluator(clips, LABELS, CONFIG)
    results = evaluate(evaluator, clips, {"fusion": good, "face": bad, "text": good}, bad, decisions, NO_HUMAN_LABELS)
    low, high = evaluator.interval(bad.by_clip())
    assert summary_metrics(results, (low, high), 3) == {
        "f1": 0.5, "f1_lo": round(low, 4), "f1_hi": round(high, 4), "acc": 0.5, "single": 1.0,
        "gain": 0.0, "given": 0.6667, "refined": 1.0, "clips": 4, "quarantined": 3,
    }  # fmt: skip

    without_gold = [clip(c.clip_id, c.given_label, "", c.split) for c in clips]
    evaluator = Evaluator(without_gold, LABELS, CONFIG)
    results = evaluate(evaluator, without_gold, {"fusion": good, "face": bad}, bad, decisions, NO_HUMAN_LABELS)
    assert set(summary_metrics(results | {"basis": "verdicts"}, (low, high), 0)) == {
        "basis", "f1", "f1_lo", "f1_hi", "acc", "single", "clips", "quarantined"
    }  # fmt: skip


def test_dvc_prints_the_summary_in_120_columns(capsys):
    from dvc.compare import show_metrics

    shares = ("f1", "f1_lo", "f1_hi", "acc", "single", "given", "refined")
    summary = {**dict.fromkeys(shares, 0.1234), "gain": -0.1234, "clips": 130_000, "quarantined": 130_000}
    show_metrics({"workspace": {"data": {"data/metrics/summary.json": {"data": summary}}}})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 120


def test_reliability_and_confusion_cover_the_evaluated_clips(clips, tmp_path):
    predicted = table(clips, ["happy", "happy", "sad", "happy", "sad"])
    evaluator = Evaluator(clips, LABELS, CONFIG)
    write_plots(tmp_path, evaluator, predicted, {"modalities": {}, "fusion": {"refined": {"weighted_f1": 0.75}}})
    with (tmp_path / "reliability.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {"confidence": "0.9", "accuracy": "0.75", "ideal": "0.9", "clips": "4"}
