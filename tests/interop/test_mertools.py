from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.core.errors import CorpusError, InputError, MissingInput
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.interop.mertools import read_answers, read_submission, score_submission, write_submission

PREDICTIONS = {"b": "happy", "a": "sad", "妈妈": "angry", "other": "sad"}


def test_submission_has_one_row_per_candidate_in_order(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    assert write_submission(path, ["妈妈", "b", "a"], PREDICTIONS)
    assert path.read_bytes() == "name,discrete\n妈妈,angry\nb,happy\na,sad\n".encode()
    assert list(read_submission(path).items()) == [("妈妈", "angry"), ("b", "happy"), ("a", "sad")]
    assert not write_submission(path, ["妈妈", "b", "a"], PREDICTIONS)


def test_submission_without_candidates_is_empty(tmp_path: Path) -> None:
    write_submission(tmp_path / "s.csv", [], PREDICTIONS)
    assert read_submission(tmp_path / "s.csv") == {}


def test_missing_and_duplicate_candidates_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    write_submission(path, ["a"], PREDICTIONS)
    before = path.read_bytes()
    with pytest.raises(MissingInput) as missing:
        write_submission(path, ["a", "z"], PREDICTIONS)
    assert "1 of 2 candidates" in missing.value.message
    assert "'z'" in missing.value.message
    assert missing.value.command == "ecmf-pipe predict"
    with pytest.raises(CorpusError) as duplicate:
        write_submission(path, ["a", "b", "a"], PREDICTIONS)
    assert "'a'" in duplicate.value.message
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,discrete\na,sad\na,happy\n", "twice: 'a'"),
        ("name,discrete\na,\n", "no label: 'a'"),
        ("name,discrete\n,sad\n", "no label: '(no name)'"),
        ("name,emotion\na,sad\n", "no column 'discrete' or 'label'"),
        ("name,discrete\na,sad,happy\n", "3 cells"),
    ],
)
def test_invalid_submissions_are_rejected(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(content)
    with pytest.raises(CorpusError) as caught:
        read_submission(tmp_path / "s.csv")
    assert "s.csv" in caught.value.message
    assert message in caught.value.message


def test_missing_submission_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(MissingInput) as caught:
        read_submission(tmp_path / "s.csv")
    assert str(tmp_path / "s.csv") in caught.value.message
    with pytest.raises(MissingInput) as caught:
        read_submission(tmp_path)
    assert "does not exist" not in caught.value.message


def test_score_covers_names_of_label_file() -> None:
    labels = {"a": "sad", "b": "sad", "c": "happy", "d": "happy"}
    assert score_submission({**labels, "e": "angry"}, labels)["weighted_f1"] == 1.0
    # sad and happy: precision 1/2, recall 1/2. Angry is not among the labels and has weight 0.
    assert score_submission({"a": "sad", "b": "happy", "c": "happy", "d": "sad"}, labels)[
        "weighted_f1"
    ] == pytest.approx(0.5)
    with pytest.raises(InputError) as caught:
        score_submission({"a": "sad", "b": "sad", "c": "sad"}, labels)
    assert "1 of 4 labelled names" in caught.value.message
    assert "'d'" in caught.value.message
    with pytest.raises(InputError, match="no labels"):
        score_submission(labels, {})


def test_full_score_matches_challenge_metric() -> None:
    labels = {"a": "sad", "b": "sad", "c": "happy", "d": "happy", "e": "bored"}
    submission = {"a": "sad", "b": "happy", "c": "happy", "d": "happy", "e": "sad", "f": "angry"}
    score = score_submission(submission, labels)
    assert score["weighted_f1"] == pytest.approx((2 * 0.5 + 2 * 0.8) / 5, abs=1e-6)
    assert (score["clips"], score["unlabeled"], score["accuracy"]) == (5, 1, 0.6)
    assert list(score["per_class"]) == ["happy", "sad", "bored"], "the challenge's order, then others"


def test_read_answers_reads_all_formats(tmp_path: Path) -> None:
    submission, predictions, npz = (tmp_path / name for name in ("s.csv", "fusion.csv", "labels.npz"))
    submission.write_text("name,discrete\na,sad\nb,happy\n")
    PredictionTable(
        ("a", "b"),
        ("train", "candidate"),
        np.array([True, False]),
        ("", ""),
        ("sad", "happy"),
        np.array([[0.9, 0.1], [0.2, 0.8]], np.float32),
        ("face",),
        np.ones((2, 1), np.float32),
    ).write(predictions)
    np.savez(npz, test1_corpus=np.array({"a": {"emo": "sad"}, "b": {"emo": "happy"}}, dtype=object))
    assert read_answers(submission) == read_answers(predictions) == read_answers(npz) == {"a": "sad", "b": "happy"}
    with pytest.raises(InputError) as no_entry:
        read_answers(npz, "train_corpus")
    assert "'train_corpus'" in no_entry.value.message
    with pytest.raises(MissingInput) as missing:
        read_answers(tmp_path / "gone.csv")
    assert "gone.csv" in missing.value.message


def test_score_command_prints_text_and_json(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("name,discrete\na,sad\nb,happy\nc,sad\n")
    (tmp_path / "truth.csv").write_text("name,discrete\na,sad\nb,sad\n")
    submission, truth = str(tmp_path / "s.csv"), str(tmp_path / "truth.csv")
    first, *classes, unlabeled = CliRunner().invoke(app, ["score", submission, truth]).output.splitlines()
    assert "0.6667" in first
    assert "0.5000" in first
    assert [line.split(":")[0].strip() for line in classes] == ["happy", "sad"]
    assert re.findall(r"\d+", unlabeled) == ["1"]
    scores = json.loads(CliRunner().invoke(app, ["score", submission, truth, "--json"]).output)
    assert scores["weighted_f1"] == pytest.approx(2 / 3, 1e-5)
    assert scores["unlabeled"] == 1
    incomplete = CliRunner().invoke(app, ["score", truth, submission])
    assert isinstance(incomplete.exception, InputError)


names = st.lists(
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20).filter(lambda name: name.isascii()),
    unique=True,
    max_size=8,
)


@given(names, st.lists(st.sampled_from(["happy", "sad", "neutral, calm", 'so "so"']), min_size=8, max_size=8))
def test_submission_round_trip(tmp_path_factory: pytest.TempPathFactory, ids: list[str], labels: list[str]) -> None:
    predictions = dict(zip(ids, labels, strict=False))
    path = tmp_path_factory.mktemp("submission") / "s.csv"
    write_submission(path, ids, predictions)
    assert list(read_submission(path).items()) == list(predictions.items())


def test_score_command_reads_one_dialect(tmp_path: Path) -> None:
    (tmp_path / "ours.csv").write_text("Clip_ID;Label\nA.mp4;Sad\nvideo/b;happy\nc;angry\n")
    (tmp_path / "truth.tsv").write_text("name\tdiscrete\na\tsad\nB\tHAPPY\nc\tsad\n")
    result = CliRunner().invoke(app, ["score", str(tmp_path / "ours.csv"), str(tmp_path / "truth.tsv"), "--json"])
    assert result.exit_code == 0, result.output
    score = json.loads(result.stdout)
    assert (score["clips"], score["unlabeled"]) == (3, 0)
    assert score["accuracy"] == pytest.approx(2 / 3, abs=1e-6)


def test_a_label_file_may_have_rows_without_label(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("name,label,group\na,sad,x\nb,happy,y\nc,,y\n")
    assert read_answers(tmp_path / "truth.csv", skip_blank=True) == {"a": "sad", "b": "happy"}
    (tmp_path / "ours.csv").write_text("name,discrete\na,sad\nb,sad\nc,sad\n")
    arguments = ["score", str(tmp_path / "ours.csv"), str(tmp_path / "truth.csv"), "--json"]
    score = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert (score["clips"], score["unlabeled"]) == (2, 1)


def test_a_submission_has_one_row_of_a_name_in_any_spelling() -> None:
    with pytest.raises(InputError, match="several rows for 'a'"):
        score_submission({"a": "sad", "a.mp4": "happy"}, {"a": "sad"})


def test_both_spellings_are_shown_if_no_name_matches() -> None:
    with pytest.raises(InputError) as caught:
        score_submission({"other": "sad"}, {"a": "sad"})
    assert "'a'" in caught.value.message
    assert "'other'" in (caught.value.hint or "")
