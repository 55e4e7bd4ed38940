"""Tests of clips, predictions and other rows that are stored as columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core import clips as clips_module
from ecmf_pipeline.core import columns
from ecmf_pipeline.core.clips import Clip, ClipId, Clips, Half, Split, WordsFrom, read_manifest, write_manifest
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.core.predictions import NO_MODALITY, PredictionTable
from ecmf_pipeline.core.tables import TableFile

DIGEST = "1" * 64


@pytest.fixture
def clips() -> list[Clip]:
    return [
        Clip(ClipId("a"), path="a.mp4", digest=DIGEST, bytes=7, duration=1.25, has_video=True, has_audio=True),
        Clip(ClipId("b"), transcript='Hi, "b"\n你好', given_label="sad", split=Split.TRAIN, group="s1"),
        Clip(ClipId("c"), digest="2" * 64, has_audio=True, file_digest=DIGEST, start=1, end=2, half=Half.LEFT),
        Clip(ClipId("d"), has_audio=True, audio_path="d.wav", audio_digest="3" * 64, words_from=WordsFrom.MACHINE),
        Clip(ClipId("e"), transcript=" \n", digest="4" * 64, has_video=True),
    ]


def test_columns_are_a_sequence_of_equal_clips(clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_BLOCK", 2)
    rows = Clips.of(clips)
    assert list(rows) == clips == rows
    assert (rows[1], rows[-1], len(rows)) == (clips[1], clips[-1], 5)
    assert type(rows[1].split) is Split
    assert rows[1:3] == clips[1:3]
    assert rows[::-2] == clips[::-2]
    assert rows != clips[::-1]
    assert rows != [*clips[:4], clips[0]]
    assert Clips.of(rows) is rows
    assert Clips.of([]) == []
    with pytest.raises(IndexError):
        rows[5]


def test_columns_are_read_filtered_and_replaced(clips: list[Clip]) -> None:
    rows = Clips.of(clips)
    assert rows.ids == ("a", "b", "c", "d", "e")
    assert rows.indices("given_label", ["happy", "sad"]).tolist() == [-1, 1, -1, -1, -1]
    assert rows.column("bytes").dtype == np.int64
    assert rows.has_words.tolist() == [False, True, False, False, False]
    assert rows.where(rows.column("has_audio")).ids == ("a", "c", "d")
    assert rows.take([3, 0]) == [clips[3], clips[0]]
    assert rows.counts("split") == {"unlabeled": 4, "train": 1}
    assert rows.replaced("group", ["x"] * 5).groups == ["x"] * 5
    changed = rows.updated([0], [clips[1]], ["transcript", "given_label"])
    assert (changed[0].transcript, changed[0].given_label, changed[0].clip_id) == (clips[1].transcript, "sad", "a")
    assert changed[1:] == clips[1:]


def test_digests_of_sounds_are_those_of_the_clips(clips: list[Clip]) -> None:
    assert Clips.of(clips).sound_digests.tolist() == [clip.sound.digest if clip.sound else "" for clip in clips]


def test_a_sound_manifest_is_read_without_parsing_rows(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path / "m.csv", clips)
    monkeypatch.setattr(TableFile, "parse", lambda *_, **__: pytest.fail("rows are parsed one by one"))
    assert read_manifest(tmp_path / "m.csv") == clips


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a.mp4", 'a".mp4'),
        (",7,", ",-7,"),
        (",7,", f",{2**70},"),
        ("1.250", "nan"),
        ("1.250", "inf"),
        ("1.250", ""),
        (",1,1,", ",2,1,"),
        ("train", "trian"),
        ("machine", "machinery"),
        ("\nb,", "\na,"),
        ("\nb,", "\n,"),
        ("\nb,", "\n\nb,"),
    ],
)
def test_damage_is_found_in_columns_as_in_rows(
    tmp_path: Path, clips: list[Clip], old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.csv"
    write_manifest(path, clips)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def outcome() -> object:
        try:
            return list(read_manifest(path))
        except CorpusError as error:
            return error.message

    by_columns = outcome()
    monkeypatch.setattr(clips_module, "_read_columns", lambda *_: None)
    assert by_columns == outcome()


def test_predictions_are_equal_if_read_by_columns_or_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = PredictionTable(
        clip_ids=("a, b", "视频"),
        splits=("train", "candidate"),
        out_of_fold=np.array([True, False]),
        flags=("", NO_MODALITY),
        label_names=("happy", "sad"),
        probs=np.array([[0.25, 0.75], [0.5, 0.5]], np.float32),
        modalities=("face", "text"),
        modality_weights=np.array([[0.1, 0.9], [np.nan, np.nan]], np.float32),
    )
    path = tmp_path / "p.csv"
    table.write(path)
    known = [Clip(ClipId("a, b"), split=Split.TRAIN), Clip(ClipId("视频"), split=Split.CANDIDATE)]
    with monkeypatch.context() as patch:
        patch.setattr(TableFile, "parse", lambda *_, **__: pytest.fail("rows are parsed one by one"))
        by_columns = PredictionTable.read(path, clips=known)
    monkeypatch.setattr(TableFile, "arrow", lambda *_: None)
    by_rows = PredictionTable.read(path, clips=known)
    for name in ("clip_ids", "splits", "out_of_fold", "flags", "label_names", "modalities", "basis"):
        assert np.array_equal(getattr(by_columns, name), getattr(by_rows, name))
    np.testing.assert_array_equal(by_columns.probs, by_rows.probs)
    np.testing.assert_array_equal(by_columns.modality_weights, by_rows.modality_weights)
