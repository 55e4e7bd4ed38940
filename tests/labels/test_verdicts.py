"""Verdicts: answers that people write or that the review page appends, and what several reviewers mean together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.labels.verdicts import Answer, combine_answers, latest_answers, other_answers, read_answers

LABELS = ("NA", "happy", "sad")
CLIPS = ("a", "b", "c")
HEADER = "name,label,reviewer,time,seconds,digest\n"


def write_file(folder: Path, text: str) -> Path:
    path = folder / "file.csv"
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path, clip_ids: tuple[str, ...] = CLIPS) -> tuple[dict[str, str], int]:
    answers, others = read_answers(path, LABELS, clip_ids)
    return {answer.clip_id: answer.label for answer in answers}, others


def test_answers_are_matched_by_clip_id(tmp_path: Path) -> None:
    path = write_file(tmp_path, "label,clip_id,by\nNA,c,me\nsad,a,me\nsad,z,me\n")
    assert read(path) == ({"c": "NA", "a": "sad"}, 1)


@pytest.mark.parametrize(
    "text",
    [
        "Name;Label\nA.mp4;SAD\nC;na\n",
        "clip_id\tdiscrete\na\tsad\nc\tNA\n",
        "\ufeffname,discrete\r\nvideo/a.MP4,sad\r\nvideo/c,NA\r\n",
        "CLIP_ID,by,LABEL\n\na,me,sad\nc.wav,me,NA\n",
    ],
)
def test_answers_are_read_in_every_spelling(tmp_path: Path, text: str) -> None:
    assert read(write_file(tmp_path, text)) == ({"a": "sad", "c": "NA"}, 0)


def test_the_path_of_a_clip_in_a_folder_is_its_id(tmp_path: Path) -> None:
    path = write_file(tmp_path, "name,label\nanna/1.mp4,sad\n./ben\\1,NA\n")
    assert read(path, ("anna__1", "ben__1")) == ({"anna__1": "sad", "ben__1": "NA"}, 0)


def test_a_file_without_rows_is_valid(tmp_path: Path) -> None:
    assert read(write_file(tmp_path, "clip_id,label\n")) == ({}, 0)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("clip_id,label\na,glad\n", ["row 2", "'glad'", "NA, happy, sad, unsure, bad clip, no emotion"]),
        ("clip_id,label\na,\nb,hapy\n", ["row 3", "did you mean 'happy'"]),
        ("clip_id,given_label,refined_label,label\na,sad,sad,sad\n", ["refine", "not those of people"]),
        ("clip_id,split,label,out_of_fold\na,train,sad,1\n", ["predict", "not those of people"]),
        ("clip_id,label\nx,sad\ny,sad\n", ["'x'", "'a'"]),
        ("clip_id,label\na,sad\na,sad\n", ["row 3", "the clip occurs twice"]),
        ("clip_id,label\n\na,sad\na.mp4,sad\n", ["row 4", "the clip occurs twice"]),
        ("clip_id\na\n", ["no column 'label'"]),
        (f'{HEADER}a,sad,me,2026-01-01,1,d\nb,"sad,me,2026-01-01,1,d\n', ["line 3"]),
    ],
)
def test_invalid_files_give_one_error_with_the_row(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read_answers(write_file(tmp_path, text), LABELS, CLIPS)
    assert all(part in caught.value.message for part in parts)
    assert caught.value.hint is not None


def test_a_table_may_be_filled_in_part(tmp_path: Path) -> None:
    text = "clip_id,decision,gain,label\na,review,0.5,\nb,keep,0.1,sad\nc,keep,0.1, \n"
    assert read(write_file(tmp_path, text)) == ({"b": "sad"}, 0)


def test_rows_of_other_clips_are_named_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_file(tmp_path, "clip_id,label\nanna_00,sad\nana_01,sad\n")
    assert read(path, ("anna_00", "anna_01"))[1] == 1
    printed = capsys.readouterr().err
    assert all(part in printed for part in ("'ana_01'", "'anna_01'"))


def test_a_folder_is_reported_as_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingInput) as caught:
        read_answers(tmp_path, LABELS, CLIPS)
    assert "is a folder" in caught.value.message


def test_a_missing_file_raises_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"none\.csv"):
        read_answers(tmp_path / "none.csv", LABELS, CLIPS)


def test_the_last_answer_of_a_reviewer_counts_and_an_empty_one_withdraws_it(tmp_path: Path) -> None:
    rows = "a,sad,me,1,1,\na,happy,me,2,1,\nb,sad,me,3,1,\nb,,me,4,1,\na,NA,you,5,1,\n"
    answers, _ = read_answers(write_file(tmp_path, HEADER + rows), LABELS, CLIPS)
    latest = {key: answer.label for key, answer in latest_answers(answers).items()}
    assert latest == {("a", "me"): "happy", ("a", "you"): "NA"}


def test_an_answer_that_is_a_label_of_the_corpus_is_that_label() -> None:
    assert other_answers(("Unsure", "sad")) == ["bad clip", "no emotion"]
    clips = [Clip(ClipId("a"))]
    assert combine_answers([Answer("a", "unsure")], clips, ("unsure", "sad")).gold.tolist() == [0]


def combined(*answers: tuple[str, str], labels: tuple[str, ...] = ("neutral", "happy", "sad")):
    """Combine answers (reviewer, label) on one clip."""
    return combine_answers(
        [Answer("a", label, reviewer) for reviewer, label in answers], [Clip(ClipId("a"), digest="d")], labels
    )


def test_reviewers_who_differ_give_a_soft_label() -> None:
    verdicts = combined(("x", "happy"), ("y", "sad"), ("z", "sad"))
    assert verdicts.gold.tolist() == [-1]
    np.testing.assert_allclose(verdicts.shares, [[0, 1 / 3, 2 / 3]])
    agreed = combined(("x", "sad"), ("y", "sad"), ("z", "unsure"))
    assert agreed.gold.tolist() == [2]
    assert np.isnan(agreed.shares).all()


def test_no_emotion_is_the_neutral_class_if_there_is_one() -> None:
    assert combined(("x", "no emotion")).gold.tolist() == [0]
    without = combined(("x", "no emotion"), labels=("happy", "sad"))
    assert (without.gold.tolist(), np.isnan(without.shares).all()) == ([-1], True)
    np.testing.assert_allclose(combined(("x", "no emotion"), ("y", "sad")).shares, [[0.5, 0, 0.5]])


def test_a_bad_clip_is_one_for_at_least_half_of_the_reviewers() -> None:
    assert combined(("x", "bad clip"), ("y", "sad")).is_bad.tolist() == [True]
    outvoted = combined(("x", "bad clip"), ("y", "sad"), ("z", "sad"))
    assert (outvoted.is_bad.tolist(), outvoted.shares.tolist()) == ([False], [[0, 0, 1]])


def test_an_answer_about_a_file_that_changed_since_is_ignored() -> None:
    clips = [Clip(ClipId("a"), digest="new"), Clip(ClipId("b"), digest="d")]
    answers = [Answer("a", "sad", digest="old"), Answer("b", "sad", digest="d")]
    verdicts = combine_answers(answers, clips, LABELS)
    assert (verdicts.gold.tolist(), verdicts.outdated) == ([-1, 2], 1)
