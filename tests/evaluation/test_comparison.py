"""What differs between two versions of a project."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.evaluation.comparison import compare_runs, read_run
from ecmf_pipeline.sharing.revisions import Version, open_version
from tests.evaluation.versions import PARAMS, make_clips, truth_of, write_predictions, write_version


def compared(first: Path, second: Path) -> dict[str, Any]:
    runs = []
    for folder in (first, second):
        with open_version(str(folder), ()) as version:
            runs.append(read_run(version))
    comparison = compare_runs(*runs)
    assert json.loads(json.dumps(comparison)) == comparison
    return comparison


def version(folder: Path, clips: list[Clip] | None = None, **others: Any) -> Path:
    clips = make_clips() if clips is None else clips
    return write_version(folder, clips, **{"predicted": {"given/fusion": truth_of(clips)}, **others})


def test_equal_versions_do_not_differ(tmp_path):
    comparison = compared(version(tmp_path / "one"), version(tmp_path / "two"))
    assert comparison["params"] == []
    assert comparison["clips"]["changed"] == {"content": [], "transcript": [], "split": [], "group": []}
    assert comparison["labels"] == {"given": [], "gold": [], "refined": None}
    assert comparison["changes"] == {
        "model": "given/fusion",
        "title": "fusion, given labels",
        "won": [],
        "lost": [],
    }
    (scores,) = comparison["scores"]["models"]
    assert (scores["difference"], scores["low"], scores["high"]) == (0, 0, 0)


def test_params_differ_by_dotted_key(tmp_path):
    params = {"preset": "embedded", "train": {"fusion": {"hidden": 64}, "pool": "mean"}}
    comparison = compared(version(tmp_path / "one"), version(tmp_path / "two", params=params))
    assert comparison["params"] == [
        {"key": "train.fusion.hidden", "first": 128, "second": 64},
        {"key": "train.pool", "first": None, "second": "mean"},
    ]


def test_clips_are_added_removed_and_changed_by_part(tmp_path):
    before, after = make_clips(8), make_clips(9)[1:]
    after[0] = replace(after[0], digest="f" * 64, transcript="another")
    after[1] = replace(after[1], group="other")
    clips = compared(version(tmp_path / "one", before), version(tmp_path / "two", after))["clips"]
    assert (clips["first"], clips["second"], clips["shared"]) == (8, 8, 7)
    assert (clips["removed"], clips["added"]) == (["clip0"], ["clip8"])
    assert clips["changed"] == {"content": ["clip1"], "transcript": ["clip1"], "split": [], "group": ["clip2"]}


def test_given_and_refined_labels_differ(tmp_path):
    before, after = make_clips(), make_clips()
    after[2] = replace(after[2], given_label="sad")
    one = version(tmp_path / "one", before, refined=truth_of(before))
    two = version(tmp_path / "two", after, refined=["", *truth_of(after)[1:]])
    assert compared(one, two)["labels"] == {
        "given": [{"clip_id": "clip2", "first": "happy", "second": "sad"}],
        "gold": [],
        "refined": [
            {"clip_id": "clip0", "first": "happy", "second": ""},
            {"clip_id": "clip2", "first": "happy", "second": "sad"},
        ],
    }


def test_clips_won_and_lost_have_the_predictions_of_both(tmp_path):
    clips = make_clips()
    truth = truth_of(clips)
    one = version(tmp_path / "one", predicted={"refined/fusion": ["sad", *truth[1:]], "given/fusion": truth})
    two = version(tmp_path / "two", predicted={"refined/fusion": [truth[0], "happy", *truth[2:]]})
    comparison = compared(one, two)
    common = {"first_probability": 0.75, "second_probability": 0.75}
    assert comparison["changes"] == {
        "model": "refined/fusion",
        "title": "fusion, refined labels",
        "won": [{"clip_id": "clip0", "truth": "happy", "first": "sad", "second": "happy", **common}],
        "lost": [{"clip_id": "clip1", "truth": "sad", "first": "sad", "second": "happy", **common}],
    }
    assert len(comparison["not_compared"]) == 3  # twice no refined labels; only one has given/fusion
    assert [row["model"] for row in comparison["scores"]["models"]] == ["refined/fusion"]


def test_scores_are_paired_over_the_clips_of_both(tmp_path):
    before, after = make_clips(8), make_clips(12)[4:]
    wrong = {"sad": "happy", "happy": "sad"}
    one = version(tmp_path / "one", before, predicted={"given/fusion": [wrong[label] for label in truth_of(before)]})
    two = version(tmp_path / "two", after)
    scores = compared(one, two)["scores"]
    assert (scores["judged_by"], scores["clips"], scores["grouped"]) == ("given", 4, True)
    (row,) = scores["models"]
    assert (row["first"]["weighted_f1"], row["second"]["weighted_f1"]) == (0, 1)
    assert (row["difference"], row["low"], row["high"]) == (1, 1, 1)


def test_gold_labels_of_one_version_judge_both(tmp_path):
    before = make_clips()
    after = [replace(clip, gold_label="sad") for clip in before[:3]] + before[3:]
    one = version(tmp_path / "one", before, predicted={"given/fusion": ["sad"] * 8})
    two = version(tmp_path / "two", after, predicted={"given/fusion": truth_of(before)})
    comparison = compared(one, two)
    assert (comparison["scores"]["judged_by"], comparison["scores"]["clips"]) == ("gold", 3)
    assert [row["clip_id"] for row in comparison["changes"]["lost"]] == ["clip0", "clip2"]


def test_without_known_groups_clips_are_drawn(tmp_path):
    clips = [replace(clip, group="") for clip in make_clips()]
    assert not compared(version(tmp_path / "one", clips), version(tmp_path / "two", clips))["scores"]["grouped"]


def test_without_predictions_the_rest_is_compared(tmp_path):
    one = version(tmp_path / "one", predicted={})
    comparison = compared(one, version(tmp_path / "two"))
    assert (comparison["scores"]["models"], comparison["changes"]) == ([], None)
    assert f"{one} has no predictions" in comparison["not_compared"]


def test_empty_predictions_count_as_none_and_do_not_hide_others(tmp_path):
    """Without labels, `predict` writes a table without rows for the given labels."""
    clips = make_clips()
    predicted = {"refined/fusion": truth_of(clips)}
    one = version(tmp_path / "one", clips, predicted=predicted)
    write_predictions(one / paths.predictions("given") / "fusion.csv", [], [])
    comparison = compared(one, version(tmp_path / "two", clips, predicted=predicted))
    assert [row["model"] for row in comparison["scores"]["models"]] == ["refined/fusion"]
    assert comparison["scores"]["clips"] == len(clips)


def test_models_of_other_labels_are_not_scored(tmp_path):
    clips = make_clips()
    two = version(tmp_path / "two", clips)
    path = two / paths.predictions("given") / "fusion.csv"
    replace(PredictionTable.read(path), label_names=("happy", "calm")).write(path)
    comparison = compared(version(tmp_path / "one", clips), two)
    assert (comparison["scores"]["models"], comparison["changes"]) == ([], None)
    (reason,) = (text for text in comparison["not_compared"] if "labels" in text and "refined" not in text)
    assert "calm; sad" in reason


def test_one_commit_compared_with_itself_is_named(tmp_path):
    version(tmp_path)
    runs = [read_run(Version(name, commit, tmp_path)) for name, commit in (("main", "ab" * 20), ("v1", "ab" * 20))]
    assert compare_runs(*runs)["same_commit"]
    assert not compare_runs(runs[0], replace(runs[1], commit="cd" * 20))["same_commit"]
    assert not compared(tmp_path, tmp_path)["same_commit"]


def test_corpora_that_share_no_clip_raise_input_error(tmp_path):
    others = [replace(clip, clip_id=ClipId(f"other{number}")) for number, clip in enumerate(make_clips())]
    with pytest.raises(InputError, match="share no clip"):
        compared(version(tmp_path / "one"), version(tmp_path / "two", others))


def test_a_version_without_a_manifest_raises_missing_input(tmp_path):
    (tmp_path / "params.yaml").write_text(json.dumps(PARAMS))
    with pytest.raises(MissingInput, match="manifest"):
        compared(tmp_path, tmp_path)
