from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecmf_pipeline.errors import CorpusError, InputError, MissingInput
from ecmf_pipeline.interop.mertools import read_submission, score_submission, write_submission

PREDICTIONS = {"b": "happy", "a": "sad", "妈妈": "angry", "unasked": "sad"}


def test_one_row_for_each_candidate_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    assert write_submission(path, ["妈妈", "b", "a"], PREDICTIONS)
    assert path.read_bytes() == "name,discrete\n妈妈,angry\nb,happy\na,sad\n".encode()
    assert list(read_submission(path).items()) == [("妈妈", "angry"), ("b", "happy"), ("a", "sad")]
    assert not write_submission(path, ["妈妈", "b", "a"], PREDICTIONS)


def test_no_candidates(tmp_path: Path) -> None:
    write_submission(tmp_path / "s.csv", [], PREDICTIONS)
    assert read_submission(tmp_path / "s.csv") == {}


def test_missing_and_doubled_candidates_leave_the_old_file(tmp_path: Path) -> None:
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
def test_submissions_that_are_none(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(content)
    with pytest.raises(CorpusError, match=message):
        read_submission(tmp_path / "s.csv")


def test_no_submission(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"s\.csv is missing"):
        read_submission(tmp_path / "s.csv")


def test_the_score_is_over_the_label_files_names() -> None:
    labels = {"a": "sad", "b": "sad", "c": "happy", "d": "happy"}
    assert score_submission({**labels, "e": "angry"}, labels) == 1.0
    # sad: precision 1/2, recall 1/2; happy: the same; angry is in no label and weighs nothing.
    assert score_submission({"a": "sad", "b": "happy", "c": "happy", "d": "sad"}, labels) == pytest.approx(0.5)
    with pytest.raises(InputError, match="1 of 4 labelled names are not in the submission: 'd'"):
        score_submission({"a": "sad", "b": "sad", "c": "sad"}, labels)
    with pytest.raises(InputError, match="no labels"):
        score_submission(labels, {})


names = st.lists(
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20).filter(lambda name: name.isascii()),
    unique=True,
    max_size=8,
)


@given(names, st.lists(st.sampled_from(["happy", "sad", "neutral, calm", 'so "so"']), min_size=8, max_size=8))
def test_what_is_written_reads_back(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], labels: list[str]
) -> None:
    predictions = dict(zip(ids, labels, strict=False))
    path = tmp_path_factory.mktemp("submission") / "s.csv"
    write_submission(path, ids, predictions)
    assert list(read_submission(path).items()) == list(predictions.items())
