"""Tests of clip ids and the manifest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecmf_pipeline.core.clips import (
    Clip,
    ClipId,
    Half,
    Split,
    content_digest,
    read_manifest,
    validate_clip_id,
    write_manifest,
)
from ecmf_pipeline.core.errors import CorpusError, MissingInput


@pytest.mark.parametrize("name", ["clip_1", "视频 一", "a b", "it's", '"x"', "..a", "a..b", "x" * 240])
def test_plain_names_are_clip_ids(name):
    assert validate_clip_id(name) == name


@pytest.mark.parametrize(
    "name", ["", " a", "a\n", ".", "..", "../a", "a/b", "a\\b", "a\0b", "a\x1b[2J", "x" * 241, "视" * 81]
)
def test_unsafe_names_are_rejected(name):
    with pytest.raises(CorpusError) as caught:
        validate_clip_id(name)
    assert caught.value.message.startswith("clip id ")
    assert caught.value.hint is not None


def test_manifest_is_sorted_and_its_bytes_are_stable(tmp_path):
    path = tmp_path / "manifest.csv"
    clips = [Clip(ClipId("b"), transcript='a "quote", a\nline'), Clip(ClipId("a"), split=Split.TRAIN, duration=1.5)]
    assert write_manifest(path, clips)
    stamp = path.stat().st_mtime_ns
    assert not write_manifest(path, reversed(clips))
    assert path.stat().st_mtime_ns == stamp
    assert read_manifest(path) == sorted(clips, key=lambda clip: clip.clip_id)


def test_halves_of_a_film_have_digests_of_their_own_but_the_same_sound():
    digest = "1" * 64
    assert content_digest(digest, 0, 0) == digest
    assert content_digest(digest, 1, 2).startswith("113235f27930b398")  # stored features keep it
    parts = [(0, 0), (1, 2)]
    assert len({content_digest(digest, *part, half) for part in parts for half in Half}) == 6
    left, right = (
        Clip(
            ClipId("a"),
            digest=content_digest(digest, 1, 2, half),
            has_audio=True,
            file_digest=digest,
            start=1,
            end=2,
            half=half,
        )
        for half in (Half.LEFT, Half.RIGHT)
    )
    assert left.sound == right.sound
    assert left.sound.digest == content_digest(digest, 1, 2)


def test_manifest_keeps_halves(tmp_path):
    clips = [Clip(ClipId(f"a{half}"), half=half) for half in Half]
    write_manifest(tmp_path / "m.csv", clips)
    assert read_manifest(tmp_path / "m.csv") == clips


def test_duplicate_clip_id_is_rejected(tmp_path):
    with pytest.raises(CorpusError) as caught:
        write_manifest(tmp_path / "m.csv", [Clip(ClipId("a")), Clip(ClipId("a"))])
    assert "'a'" in caught.value.message


def test_missing_and_damaged_manifests_are_reported_with_the_command(tmp_path):
    path = tmp_path / "manifest.csv"
    with pytest.raises(MissingInput) as caught:
        read_manifest(path)
    assert caught.value.command == "ecmf-pipe index"
    write_manifest(path, [Clip(ClipId("a"))])
    content = path.read_text()
    path.write_text(content.replace("unlabeled", "nonsense"))
    with pytest.raises(CorpusError, match="row 2") as caught:
        read_manifest(path)
    assert caught.value.command == "ecmf-pipe index"
    path.write_text("name,label\n")
    with pytest.raises(CorpusError, match="not a manifest"):
        read_manifest(path)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=20)


def test_manifest_with_other_columns_is_rejected(tmp_path):
    path = tmp_path / "manifest.csv"
    write_manifest(path, [Clip(ClipId("a"))])
    path.write_text(path.read_text().replace("transcript,translation,", "transcript,"))
    with pytest.raises(CorpusError, match="version") as caught:
        read_manifest(path)
    assert caught.value.command == "ecmf-pipe index"


@given(transcript=texts, translation=texts, label=texts, size=st.integers(0, 10**12), video=st.booleans())
def test_written_clips_are_read_back(tmp_path_factory, transcript, translation, label, size, video):
    path = tmp_path_factory.mktemp("m") / "manifest.csv"
    clip = Clip(
        ClipId("a"), transcript=transcript, translation=translation, given_label=label, bytes=size, has_video=video
    )
    write_manifest(path, [clip])
    assert read_manifest(path) == [clip]
