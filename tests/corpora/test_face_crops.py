"""Face crops of a corpus are found, hashed once and cached."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, read_manifest, write_manifest
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.index import index_corpus
from ecmf_pipeline.corpora.listing import count_by_kind
from ecmf_pipeline.corpora.registry import read_corpus, scanned_folders


@pytest.fixture
def root(tmp_path, make_clip) -> Path:
    corpus = tmp_path / "corpus"
    for name in ("a", "b", "c"):
        make_clip(corpus / f"video/{name}.mp4", pictures=3, audio_seconds=0.2, video=name != "b")
    (corpus / "track1_train_disdim.csv").write_text("name,discrete\na,sad\nb,happy\nc,sad\n")
    for name in ("a", "b", "stray"):
        folder = corpus / "openface_face" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.npy").write_bytes(name.encode())
    (corpus / "openface_face/c").mkdir()  # an empty folder has no face crops
    return corpus


def index(root: Path, *, face_crops: bool = True):
    config = CorpusConfig(kind="mer", root=root)
    return index_corpus(read_corpus(config, face_crops=face_crops), root.parent / "cache.json", workers=0)


def test_each_clip_has_the_digest_of_its_crops(root):
    a, b, c = index(root).clips
    assert a.face_path == "openface_face/a/a.npy"
    assert a.face_digest == sha256_file(root / a.face_path)
    assert a.face_bytes == 1
    assert b.face_digest
    assert not b.has_video
    assert (c.face_path, c.face_digest, c.face_bytes) == ("", "", 0)


def test_folders_of_pictures_are_face_crops_and_changes_are_seen(root):
    for number in (1, 2):
        (root / f"openface_face/c/frame_{number}.bmp").write_bytes(b"x" * number)
    first = index(root)
    clip = first.clips[2]
    assert (clip.face_path, clip.face_bytes) == ("openface_face/c", 3)
    assert len(clip.face_digest) == 64
    assert "no_face_crops" not in count_by_kind(first.findings)
    assert index(root).hashed == 0
    (root / "openface_face/c/frame_2.bmp").write_bytes(b"yy")
    os.utime(root / "openface_face/c/frame_2.bmp", ns=(10**18, 10**18 * 2))
    changed = index(root)
    assert changed.hashed == 1
    assert changed.clips[2].face_digest != clip.face_digest


def test_missing_and_unmatched_face_crops_are_reported(root):
    result = index(root)
    counts = count_by_kind(result.findings)
    assert counts["no_face_crops"] == 1
    assert counts["face_crops_without_clip"] == 1
    messages = {finding.kind.value: finding.message for finding in result.findings}
    assert "1 of 3 clips" in messages["no_face_crops"]
    assert "'c'" in messages["no_face_crops"]
    assert "video/b.mp4" in messages["no_video_stream"]
    assert "face" not in messages["no_video_stream"], "the clip has face crops"


def test_missing_face_crops_folder_is_reported_once(root):
    (root / "openface_face").rename(root / "elsewhere")
    result = index(root)
    assert count_by_kind(result.findings)["no_face_crops"] == 3
    assert len([finding for finding in result.findings if "openface_face" in finding.message]) == 1


def test_face_crops_are_not_read_by_default(root):
    result = index(root, face_crops=False)
    assert result.hashed == 3
    assert not any(clip.face_path or clip.face_digest for clip in result.clips)
    assert "no_face_crops" not in count_by_kind(result.findings)


def test_unchanged_face_crops_are_not_read_again(root):
    first, second = index(root), index(root)
    assert (first.hashed, first.reused) == (5, 0)
    assert (second.hashed, second.reused) == (0, 5)
    assert second.clips == first.clips
    (root / "openface_face/a/a.npy").write_bytes(b"other")
    third = index(root)
    assert third.hashed == 1
    assert third.clips[0].face_digest != first.clips[0].face_digest
    assert third.clips[0].digest == first.clips[0].digest


def test_unreadable_face_crops_are_reported(root):
    path = root / "openface_face/a/a.npy"
    path.unlink()
    listing = read_corpus(CorpusConfig(kind="mer", root=root), face_crops=True)
    (clip, *others) = listing.clips
    stale_listing = replace(listing, clips=(replace(clip, face_path="openface_face/a/a.npy"), *others))
    result = index_corpus(stale_listing, root.parent / "cache.json", workers=0)
    assert result.clips[0].face_digest == ""
    [finding] = [finding for finding in result.findings if finding.kind == "unreadable"]
    assert finding.clip_id == "a"
    assert "openface_face/a/a.npy" in finding.message


def test_manifest_keeps_face_crops(tmp_path):
    clip = Clip(ClipId("a"), face_path="openface_face/a/a.npy", face_digest="ab", face_bytes=12)
    write_manifest(tmp_path / "manifest.csv", [clip])
    assert read_manifest(tmp_path / "manifest.csv") == [clip]


def test_face_crops_folder_is_scanned_on_request(root):
    config = CorpusConfig(kind="mer", root=root)
    assert root / "openface_face" in scanned_folders(config, face_crops=True)[1]
    assert root / "openface_face" not in scanned_folders(config)[1]
