"""Extraction from clips to stores: the computed branches, and the effects of bad clips."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from skimage import data

from ecmf_pipeline.core import files
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Modality
from ecmf_pipeline.core.errors import TooManyQuarantined, TryAgain
from ecmf_pipeline.core.files import FileState, sha256_file
from ecmf_pipeline.corpora import measuring
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.run import clip_limits
from ecmf_pipeline.extraction.step import ClipToExtract
from ecmf_pipeline.media import clip_reader
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner import quarantine
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.store import FeatureStore
from tests.extraction.brightness import reasons


def test_media_branches_of_one_run_share_one_decode(project, decodes):
    report = project.run(Modality.GLOBAL, Modality.FACE)
    assert decodes == ["face", "mute", "tree"]
    assert report.done == {"global": 3, "face": 2}
    assert report.reasons["face"] == {"NoFaceFound": 1}
    assert report.quarantined["global"] == 0


def test_only_missing_clips_are_decoded(project, decodes):
    project.run(Modality.GLOBAL)
    decodes.clear()
    report = project.run(Modality.GLOBAL, Modality.FACE)
    assert report.done == {"face": 2}
    assert report.reused == {"global": 3, "face": 0}
    project.run(Modality.GLOBAL, Modality.FACE)
    assert decodes == ["face", "mute", "tree"]  # the quarantined clip was not retried


def test_rows_have_times_and_boxes(project):
    project.run(Modality.GLOBAL, Modality.FACE)
    frames = FeatureStore.open(project.root(Modality.GLOBAL)).row("face")
    assert frames.side["times"].tolist() == pytest.approx([0.04, 0.12, 0.2, 0.28], abs=0.001)
    crops = FeatureStore.open(project.root(Modality.FACE)).row("face")
    assert crops.values.shape == (2, 2)  # the encoder kept two of four
    assert crops.side["times"].tolist() == pytest.approx([0.04, 0.2], abs=0.001)
    assert crops.side["boxes"].shape == (2, 4)
    assert crops.side["scores"].shape == (2,)
    assert crops.side["landmarks"].shape == (2, 12)
    assert (crops.side["landmark_quality"] > 0.3).all()


def test_a_clip_without_features_is_quarantined_and_not_stored_as_zeros(project):
    report = project.run(Modality.AUDIO)
    assert report.reasons["audio"] == {"NothingToEncode": 2}
    assert len(FeatureStore.open(project.root(Modality.AUDIO))) == 0
    assert project.plan(Modality.AUDIO).absent == 1


def test_features_beyond_the_range_of_the_store_are_quarantined(project):
    project.texts = {"face": ClipText("a", "b"), "mute": ClipText("", "b"), "tree": ClipText("c", "d")}
    report = project.run(Modality.TEXT, scale=1e39)  # beyond float32
    assert report.reasons["text"] == {"FeaturesNotFinite": 2}


def test_an_unreachable_file_is_retried(project):
    away = project.folder / "face.mp4"
    away.rename(project.folder / "elsewhere.mp4")
    with pytest.raises(TryAgain, match="FileUnreachable 2"):
        project.run(Modality.GLOBAL, Modality.AUDIO)
    assert reasons(project, Modality.GLOBAL) == {"face": "FileUnreachable"}
    (project.folder / "elsewhere.mp4").rename(away)
    assert project.run(Modality.GLOBAL).done == {"global": 1}
    assert project.plan(Modality.GLOBAL).todo == set()


def test_a_branch_with_too_many_bad_clips_does_not_stop_other_branches(project, monkeypatch):
    monkeypatch.setattr(quarantine, "ALLOWED_OF_FEW", 0)
    project.run(Modality.FACE)  # one of three shows no face
    project.add(project.folder / "face.mp4")  # gives the face branch a missing clip
    project.clips[-1] = replace(project.clips[-1], clip_id=ClipId("again"))
    with pytest.raises(TooManyQuarantined) as caught:
        project.run(Modality.FACE, Modality.GLOBAL, max_quarantined=0.2)
    assert "extract face: 1 of 4" in caught.value.message
    assert len(FeatureStore.open(project.root(Modality.GLOBAL))) == 4
    assert project.plan(Modality.FACE).todo == {"again"}


def test_outdated_entries_are_removed_even_if_too_many_clips_are_bad(project, monkeypatch):
    monkeypatch.setattr(quarantine, "ALLOWED_OF_FEW", 0)
    project.run(Modality.FACE)
    other = {"digest": "0" * 64, "file_digest": "0" * 64}
    project.clips = [replace(clip, **other) if clip.clip_id == "face" else clip for clip in project.clips]
    with pytest.raises(TryAgain):
        project.run(Modality.FACE)
    assert set(reasons(project, Modality.FACE).values()) == {"NoFaceFound", "ChangedSinceIndex"}
    with pytest.raises(TooManyQuarantined):
        project.run(Modality.FACE, max_quarantined=0)
    assert set(reasons(project, Modality.FACE).values()) == {"NoFaceFound"}


def test_a_file_that_changed_since_indexing_affects_only_its_media_branches(project, decodes):
    project.texts = {clip.clip_id: ClipText("a", "b") for clip in project.clips}
    project.clips = [replace(clip, bytes=(project.folder / clip.path).stat().st_size) for clip in project.clips]
    with (project.folder / "face.mp4").open("ab") as file:
        file.write(b"more")
    with pytest.raises(TryAgain, match="ChangedSinceIndex 3"):
        project.run(*Modality)
    assert decodes == ["mute", "tree"]
    assert set(FeatureStore.open(project.root(Modality.TEXT)).newest()) == {"face", "mute", "tree"}
    for modality in (Modality.GLOBAL, Modality.FACE, Modality.AUDIO):
        assert reasons(project, modality)["face"] == "ChangedSinceIndex"


@pytest.mark.parametrize("knows_states", [True, False])
def test_a_file_replaced_by_one_of_the_same_size_and_mtime_is_not_decoded(project, decodes, knows_states):
    states = {clip.path: FileState.of(project.folder / clip.path) for clip in project.clips}
    time.sleep(0.06)  # more than one tick of the file system's clock
    path = project.folder / "face.mp4"
    times, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "known_states", lambda *_: states if knows_states else {})
        with pytest.raises(TryAgain, match="ChangedSinceIndex 1"):
            project.run(Modality.GLOBAL)
    assert decodes == ["mute", "tree"]
    assert reasons(project, Modality.GLOBAL) == {"face": "ChangedSinceIndex"}


def test_files_in_their_indexed_state_are_not_hashed(project, monkeypatch):
    hashed: list[str] = []
    monkeypatch.setattr(files, "sha256_file", lambda path: hashed.append(path.name) or sha256_file(path))
    project.run(Modality.GLOBAL)
    assert hashed == ["face.mp4", "mute.mp4", "tree.mp4"]  # no known states: each file is hashed once
    hashed.clear()
    states = {clip.path: FileState.of(project.folder / clip.path) for clip in project.clips}
    monkeypatch.setattr(measuring, "known_states", lambda *_: states)
    assert project.run(Modality.FACE).done == {"face": 2}
    assert hashed == []


def test_a_file_that_changes_while_it_is_decoded_is_not_stored(project, monkeypatch):
    read_samplings = clip_reader.read_samplings

    def read_and_change(path: Path, *arguments: Any):
        sampled = read_samplings(path, *arguments)
        if path.name == "face.mp4":
            path.write_bytes(path.read_bytes())
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        return sampled

    monkeypatch.setattr(clip_reader, "read_samplings", read_and_change)
    with pytest.raises(TryAgain, match="ChangedSinceIndex 1"):
        project.run(Modality.GLOBAL)
    assert set(FeatureStore.open(project.root(Modality.GLOBAL)).newest()) == {"mute", "tree"}


def test_a_clip_that_met_a_limit_is_tried_again_when_the_limit_is_lifted(project):
    plan = project.plan(Modality.GLOBAL)
    plan.quarantine.add("face", "ClipTimeout", "", plan.digests["face"], 120.0)
    plan.quarantine.add("tree", "TruncatedMedia", "", plan.digests["tree"], 0.7)
    plan.quarantine.write()
    for clip_timeout, least_readable, expected in (
        (120, 0.9, {"mute"}),
        (121, 0.9, {"mute", "face"}),
        (60, 0.7, {"mute", "tree"}),
    ):
        limits = clip_limits(ExtractConfig(clip_timeout=clip_timeout), MediaConfig(least_readable=least_readable))
        assert project.plan(Modality.GLOBAL, limits=limits).todo == expected


def test_a_clip_is_split_into_its_branches():
    digests = {Modality.GLOBAL: "a", Modality.FACE: "a", Modality.AUDIO: "a", Modality.TEXT: "b"}
    whole = ClipToExtract(
        Clip(ClipId("one"), "one.mp4", "a", has_video=True, has_audio=True), digests, ClipText("a", "b")
    )
    pieces = whole.alone()
    assert [target for piece in pieces for target in piece.targets] == whole.targets
    assert [len(piece.targets) for piece in pieces] == [1, 1, 1, 1]
    assert [list(piece.alone()) for piece in pieces] == [[piece] for piece in pieces]


def test_changed_settings_use_another_store_and_switching_back_computes_nothing(project):
    project.texts = {"face": ClipText("a", "b")}
    project.run(Modality.TEXT)
    assert project.run(Modality.TEXT, scale=2.0).done == {"text": 1}
    assert FeatureStore.open(project.root(Modality.TEXT)).load(["face"]).values.tolist() == [[2, 2]]
    assert project.run(Modality.TEXT).done == {}
    assert FeatureStore.open(project.root(Modality.TEXT)).load(["face"]).values.tolist() == [[1, 1]]


def test_a_quarantined_clip_is_retried_after_its_file_changes(project, make_clip):
    project.run(Modality.FACE)
    assert project.plan(Modality.FACE).todo == set()
    path = make_clip(project.folder / "tree.mp4", pictures=8, photograph=data.astronaut()[:256, 64:384])
    project.clips = [clip for clip in project.clips if clip.clip_id != "tree"]
    project.add(path)
    assert project.run(Modality.FACE).done == {"face": 1}
    assert len(Quarantine(project.folder / "face.csv", stage="extract", modality="face")) == 0
