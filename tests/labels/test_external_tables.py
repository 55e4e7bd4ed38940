"""Csv files of external votes, which users write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.labels.vote_files import read_external_votes

LABELS = ("NA", "happy", "sad")
CLIPS = ("a", "b", "c")


def write_file(folder: Path, text: str) -> Path:
    path = folder / "file.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_votes_are_read_in_every_spelling(tmp_path: Path) -> None:
    text = "Name;Source;P_SAD;P_na;p_happy\nB.mp4;x;0.5;0.2;0.3\nb;y;0.2;0.5;0.3\n"
    votes, others = read_external_votes(write_file(tmp_path, text), LABELS, CLIPS)
    assert_array_equal(votes["x"][1], [0.2, 0.3, 0.5])
    assert_array_equal(votes["y"][1], [0.5, 0.3, 0.2])
    assert others == 0


def test_decimal_commas_are_read(tmp_path: Path) -> None:
    text = "Name;Source;P_SAD;P_na;p_happy\na;x;0,5;,25;0,25\n"
    votes, _ = read_external_votes(write_file(tmp_path, text), LABELS, CLIPS)
    assert_array_equal(votes["x"][0], [0.25, 0.25, 0.5])


def test_votes_may_be_labels(tmp_path: Path) -> None:
    text = "clip_id,source,label\nb,x,happy\na,x,\na,y,NA\nz,y,sad\n"
    votes, others = read_external_votes(write_file(tmp_path, text), LABELS, CLIPS)
    assert list(votes) == ["x", "y"]
    assert_array_equal(votes["x"][1], [0, 1, 0])
    assert np.isnan(votes["x"][[0, 2]]).all()
    assert_array_equal(votes["y"][0], [1, 0, 0])
    assert others == 1


def test_votes_may_be_probabilities(tmp_path: Path) -> None:
    text = "clip_id,source,p_sad,p_NA,p_happy\nb,x,0.5,0.2,0.3\na,x,,,\n"
    votes, _ = read_external_votes(write_file(tmp_path, text), LABELS, CLIPS)
    assert_array_equal(votes["x"][1], [0.2, 0.3, 0.5])
    assert np.isnan(votes["x"][[0, 2]]).all()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("clip_id,source,label\na,x,\na,y,glad\n", ["row 3", "'glad'", "NA, happy, sad"]),
        ("clip_id,source,label\na,x,sad\na,x,sad\n", ["row 3", "twice"]),
        ("clip_id,source,label\na,,sad\n", ["row 2", "empty source name"]),
        ("clip_id,source,p_sad,p_NA,p_happy\na,x,0.5,0.2,0.2\n", ["row 2", "distribution"]),
        ("clip_id,source,p_sad,p_NA,p_happy\na,x,0.5,0.5,\n", ["row 2", "distribution"]),
        ("clip_id,source,p_sad\na,x,1\n", ["no p_NA, p_happy"]),
        ("clip_id,source,label,p_sad,p_NA,p_hapy\na,x,sad,1,0,0\n", ["no p_happy"]),
        ("clip_id,source,p_happiness\na,x,1\n", ["no column 'label'"]),
        ("clip_id;source;p_sad;p_NA;p_happy\na;x;1,000,0;0;0\n", ["row 2", "p_sad"]),
        ("clip_id,source,label\nx,me,sad\ny,me,\n", ["'x'", "'a'"]),
        ("clip_id,source,label\na,me,sad\na,posterior_model,sad\n", ["row 3", "'posterior_model'"]),
        ("clip_id,source,label\na,posterior,sad\n", ["row 2", "'posterior'", "reserved"]),
        ("clip_id,source,label\na,x\u200by,sad\n", ["row 2", r"'x\u200by'", "not printable"]),
        ("clip_id,source,label\n\na,x,sad\n\na.mp4,x,sad\n", ["row 5", "twice"]),
        ("clip_id,source,label\na,x,sad,sad\n", ["line 2", "4 cells"]),
        ("clip_id,label\na,sad\n", ["no column 'source'"]),
    ],
)
def test_invalid_votes_raise_input_error(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read_external_votes(write_file(tmp_path, text), LABELS, CLIPS)
    assert all(part in caught.value.message for part in parts)
    assert caught.value.hint is not None


LABEL_AND_PROBABILITIES = "clip_id,source,label,p_sad,p_NA,p_happy\n"


def test_labels_that_agree_with_the_probabilities_change_nothing(tmp_path: Path) -> None:
    text = LABEL_AND_PROBABILITIES + "a,x,sad,0.5,0.2,0.3\nb,x,,,,\nc,x,happy,0.4,0.2,0.4\n"
    votes, _ = read_external_votes(write_file(tmp_path, text), LABELS, CLIPS)
    assert_array_equal(votes["x"], [[0.2, 0.3, 0.5], [np.nan] * 3, [0.2, 0.4, 0.4]])


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ("happy,0.5,0.2,0.3", ["label is 'happy'", "probabilities give 'sad'"]),
        (",0.5,0.2,0.3", ["label is an abstention", "probabilities give 'sad'"]),
        ("happy,,,", ["label is 'happy'", "probabilities give an abstention"]),
        ("glad,0.5,0.2,0.3", ["unknown label 'glad'"]),
    ],
)
def test_labels_that_contradict_the_probabilities_raise_input_error(
    tmp_path: Path, record: str, parts: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        read_external_votes(
            write_file(tmp_path, f"{LABEL_AND_PROBABILITIES}a,x,sad,0.5,0.2,0.3\nb,x,{record}\n"), LABELS, CLIPS
        )
    assert all(part in caught.value.message for part in ["row 3", *parts])


def test_a_file_without_records_is_valid(tmp_path: Path) -> None:
    assert read_external_votes(write_file(tmp_path, "clip_id,source,label\n"), LABELS, CLIPS) == ({}, 0)
