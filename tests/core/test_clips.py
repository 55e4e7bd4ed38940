"""Clips and the manifest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecmf_pipeline.core.clips import Clip, ClipId, Split, read_manifest, validate_clip_id, write_manifest
from ecmf_pipeline.core.errors import CorpusError, MissingInput


@pytest.mark.parametrize("name", ["clip_1", "视频 一", "a b", "it's", '"x"', "..a", "a..b", "x" * 240])
def test_plain_names_are_clip_ids(name):
    assert validate_clip_id(name) == name


@pytest.mark.parametrize(
    "name", ["", " a", "a\n", ".", "..", "../a", "a/b", "a\\b", "a\0b", "a\x1b[2J", "x" * 241, "视" * 81]
)
def test_names_that_could_do_harm_are_refused(name):
    with pytest.raises(CorpusError, match="clip id"):
        validate_clip_id(name)


def test_the_manifest_is_sorted_and_its_bytes_do_not_change(tmp_path):
    path = tmp_path / "manifest.csv"
    clips = [Clip(ClipId("b"), transcript='a "quote", a\nline'), Clip(ClipId("a"), split=Split.TRAIN, duration=1.5)]
    assert write_manifest(path, clips)
    stamp = path.stat().st_mtime_ns
    assert not write_manifest(path, reversed(clips))
    assert path.stat().st_mtime_ns == stamp
    assert read_manifest(path) == sorted(clips, key=lambda clip: clip.clip_id)


def test_a_clip_id_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="stands twice"):
        write_manifest(tmp_path / "m.csv", [Clip(ClipId("a")), Clip(ClipId("a"))])


def test_missing_and_damaged_manifests_say_what_to_do(tmp_path):
    path = tmp_path / "manifest.csv"
    with pytest.raises(MissingInput, match="ecmf-pipe index"):
        read_manifest(path)
    write_manifest(path, [Clip(ClipId("a"))])
    whole = path.read_text()
    path.write_text(whole.replace("unlabeled", "nonsense"))
    with pytest.raises(CorpusError, match="row 2 is damaged"):
        read_manifest(path)
    path.write_text("name,label\n")
    with pytest.raises(CorpusError, match="not a manifest"):
        read_manifest(path)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=20)


def test_a_manifest_from_before_there_were_translations_is_to_be_written_anew(tmp_path):
    path = tmp_path / "manifest.csv"
    write_manifest(path, [Clip(ClipId("a"))])
    path.write_text(path.read_text().replace("transcript,translation,", "transcript,"))
    with pytest.raises(CorpusError, match=r"not a manifest of this version[\s\S]*ecmf-pipe index"):
        read_manifest(path)


@given(transcript=texts, translation=texts, label=texts, size=st.integers(0, 10**12), video=st.booleans())
def test_whatever_stands_in_a_clip_is_read_back(tmp_path_factory, transcript, translation, label, size, video):
    path = tmp_path_factory.mktemp("m") / "manifest.csv"
    clip = Clip(
        ClipId("a"), transcript=transcript, translation=translation, given_label=label, bytes=size, has_video=video
    )
    write_manifest(path, [clip])
    assert read_manifest(path) == [clip]
