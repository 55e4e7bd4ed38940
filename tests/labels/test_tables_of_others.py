from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.labels.tables import read_sources, read_verdicts

LABELS = ("NA", "happy", "sad")
CLIPS = ("a", "b", "c")


def written(folder: Path, text: str) -> Path:
    path = folder / "file.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_verdicts_find_their_clips(tmp_path: Path) -> None:
    gold, others = read_verdicts(written(tmp_path, "label,clip_id,by\nNA,c,me\nsad,a,me\nsad,z,me\n"), LABELS, CLIPS)
    assert_array_equal(gold, [2, -1, 0])
    assert others == 1


def test_votes_may_be_labels(tmp_path: Path) -> None:
    text = "clip_id,source,label\nb,x,happy\na,x,\na,y,NA\nz,y,sad\n"
    votes, others = read_sources(written(tmp_path, text), LABELS, CLIPS)
    assert list(votes) == ["x", "y"]
    assert_array_equal(votes["x"][1], [0, 1, 0])
    assert np.isnan(votes["x"][[0, 2]]).all()
    assert_array_equal(votes["y"][0], [1, 0, 0])
    assert others == 1


def test_votes_may_be_probabilities(tmp_path: Path) -> None:
    text = "clip_id,source,p_sad,p_NA,p_happy\nb,x,0.5,0.2,0.3\na,x,,,\n"
    votes, _ = read_sources(written(tmp_path, text), LABELS, CLIPS)
    assert_array_equal(votes["x"][1], [0.2, 0.3, 0.5])
    assert np.isnan(votes["x"][[0, 2]]).all()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("clip_id,source,label\na,x,\na,y,glad\n", "record 2: the label is unknown: 'glad' is none of NA, happy, sad"),
        ("clip_id,source,label\na,x,sad\na,x,sad\n", "record 2: the source votes twice"),
        ("clip_id,source,label\na,,sad\n", "the source has no name"),
        ("clip_id,source,p_sad,p_NA,p_happy\na,x,0.5,0.2,0.2\n", "not a distribution"),
        ("clip_id,source,p_sad,p_NA,p_happy\na,x,0.5,0.5,\n", "not a distribution"),
        ("clip_id,source,p_sad\na,x,1\n", "no column 'label'"),
        ("clip_id,source,label\nx,me,sad\ny,me,\n", "nothing of any clip of the corpus: it names 'x', the corpus 'a'"),
        ("clip_id,source,label\na,me,sad\na,posterior_model,sad\n", "record 2: .*called 'posterior_model'"),
        ("clip_id,source,label\na,posterior,sad\n", "called 'posterior': columns of refined.csv"),
        ('clip_id,source,label\na,"x\ny",sad\n', r"called 'x\\ny': it cannot be printed"),
        ("clip_id,label\na,sad\n", "no column 'source'"),
    ],
)
def test_votes_that_are_wrong_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_sources(written(tmp_path, text), LABELS, CLIPS)


BOTH = "clip_id,source,label,p_sad,p_NA,p_happy\n"


def test_labels_beside_probabilities_that_say_the_same_change_nothing(tmp_path: Path) -> None:
    text = BOTH + "a,x,sad,0.5,0.2,0.3\nb,x,,,,\nc,x,happy,0.4,0.2,0.4\n"
    votes, _ = read_sources(written(tmp_path, text), LABELS, CLIPS)
    assert_array_equal(votes["x"], [[0.2, 0.3, 0.5], [np.nan] * 3, [0.2, 0.4, 0.4]])


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ("happy,0.5,0.2,0.3", "record 2: the label is not the vote: it says 'happy', the probabilities 'sad'"),
        (",0.5,0.2,0.3", "it says nothing, the probabilities 'sad'"),
        ("happy,,,", "it says 'happy', the probabilities nothing"),
        ("glad,0.5,0.2,0.3", "the label is unknown: 'glad'"),
    ],
)
def test_labels_that_contradict_the_probabilities_beside_them_are_refused(
    tmp_path: Path, record: str, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        read_sources(written(tmp_path, f"{BOTH}a,x,sad,0.5,0.2,0.3\nb,x,{record}\n"), LABELS, CLIPS)


def test_a_file_without_a_record_says_nothing_wrong(tmp_path: Path) -> None:
    assert read_sources(written(tmp_path, "clip_id,source,label\n"), LABELS, CLIPS) == ({}, 0)
    gold, others = read_verdicts(written(tmp_path, "clip_id,label\n"), LABELS, CLIPS)
    assert (gold.tolist(), others) == ([-1, -1, -1], 0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("clip_id,label\na,glad\n", "record 1: the label is unknown: 'glad' is none of NA, happy, sad"),
        ("clip_id,label\na,\n", "the label is unknown: ''"),
        ("clip_id,label\nx,sad\ny,sad\n", "nothing of any clip of the corpus: it names 'x', the corpus 'a'"),
        ("clip_id,label\na,sad\na,sad\n", "the clip stands twice"),
        ("clip_id\na\n", "no column 'label'"),
    ],
)
def test_verdicts_that_are_wrong_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_verdicts(written(tmp_path, text), LABELS, CLIPS)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="missing"):
        read_verdicts(tmp_path / "none.csv", LABELS, CLIPS)
