from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.core.errors import CorpusError, InputError, MissingInput
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.interop.mertools import full_score, read_answers, read_submission, write_submission

PREDICTIONS = {"b": "happy", "a": "sad", "妈妈": "angry", "unasked": "sad"}


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
    with pytest.raises(MissingInput, match="1 of 2 candidates have no prediction: 'z'"):
        write_submission(path, ["a", "z"], PREDICTIONS)
    with pytest.raises(CorpusError, match="named twice: 'a'"):
        write_submission(path, ["a", "b", "a"], PREDICTIONS)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,discrete\na,sad\na,happy\n", "stand twice: 'a'"),
        ("name,discrete\na,\n", "without a name or a label: 'a'"),
        ("name,discrete\n,sad\n", "without a name"),
        ("name,label\na,sad\n", "no column 'discrete'"),
        ("name,discrete\na,sad,happy\n", "3 cells"),
    ],
)
def test_invalid_submissions_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(content)
    with pytest.raises(CorpusError, match=message):
        read_submission(tmp_path / "s.csv")


def test_missing_submission_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"s\.csv is missing"):
        read_submission(tmp_path / "s.csv")


def test_score_covers_names_of_label_file() -> None:
    labels = {"a": "sad", "b": "sad", "c": "happy", "d": "happy"}
    assert full_score({**labels, "e": "angry"}, labels)["weighted_f1"] == 1.0
    # sad: precision 1/2, recall 1/2; happy: the same; angry is in no label and weighs nothing.
    assert full_score({"a": "sad", "b": "happy", "c": "happy", "d": "sad"}, labels)["weighted_f1"] == pytest.approx(0.5)
    with pytest.raises(InputError, match="1 of 4 labelled names are not in the submission: 'd'"):
        full_score({"a": "sad", "b": "sad", "c": "sad"}, labels)
    with pytest.raises(InputError, match="no labels"):
        full_score(labels, {})


def test_full_score_matches_challenge_metric() -> None:
    labels = {"a": "sad", "b": "sad", "c": "happy", "d": "happy", "e": "bored"}
    answers = {"a": "sad", "b": "happy", "c": "happy", "d": "happy", "e": "sad", "f": "angry"}
    found = full_score(answers, labels)
    assert found["weighted_f1"] == pytest.approx((2 * 0.5 + 2 * 0.8) / 5, abs=1e-6)
    assert (found["clips"], found["unlabeled"], found["accuracy"]) == (5, 1, 0.6)
    assert list(found["per_class"]) == ["happy", "sad", "bored"], "the challenge's order, then others"


def test_read_answers_reads_all_formats(tmp_path: Path) -> None:
    csv_file, ours, packed = (tmp_path / name for name in ("s.csv", "fusion.csv", "labels.npz"))
    csv_file.write_text("name,discrete\na,sad\nb,happy\n")
    PredictionTable(
        ("a", "b"),
        ("train", "candidate"),
        np.array([True, False]),
        ("", ""),
        ("sad", "happy"),
        np.array([[0.9, 0.1], [0.2, 0.8]], np.float32),
        ("face",),
        np.ones((2, 1), np.float32),
    ).write(ours)
    np.savez(packed, test1_corpus=np.array({"a": {"emo": "sad"}, "b": {"emo": "happy"}}, dtype=object))
    assert read_answers(csv_file) == read_answers(ours) == read_answers(packed) == {"a": "sad", "b": "happy"}
    with pytest.raises(InputError, match="no entry 'train_corpus'"):
        read_answers(packed, "train_corpus")
    with pytest.raises(MissingInput, match="is missing"):
        read_answers(tmp_path / "gone.csv")


def test_score_command_prints_text_and_json(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("name,discrete\na,sad\nb,happy\nc,sad\n")
    (tmp_path / "truth.csv").write_text("name,discrete\na,sad\nb,sad\n")
    words = ["score", str(tmp_path / "s.csv"), str(tmp_path / "truth.csv")]
    shown = CliRunner().invoke(app, words)
    assert shown.output.splitlines()[0] == "score: weighted F1 0.6667, accuracy 0.5000 over 2 names"
    assert "which do not count: 1" in shown.output
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).output)["weighted_f1"] == pytest.approx(2 / 3, 1e-5)
    lacking = CliRunner().invoke(app, ["score", words[2], words[1]])
    assert isinstance(lacking.exception, InputError)


names = st.lists(
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20).filter(lambda name: name.isascii()),
    unique=True,
    max_size=8,
)


@given(names, st.lists(st.sampled_from(["happy", "sad", "neutral, calm", 'so "so"']), min_size=8, max_size=8))
def test_submission_round_trip(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], labels: list[str]
) -> None:
    predictions = dict(zip(ids, labels, strict=False))
    path = tmp_path_factory.mktemp("submission") / "s.csv"
    write_submission(path, ids, predictions)
    assert list(read_submission(path).items()) == list(predictions.items())
