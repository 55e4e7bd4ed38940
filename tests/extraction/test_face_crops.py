"""Face crops that come with the corpus."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Modality
from ecmf_pipeline.core.errors import TryAgain
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.extraction.run import Coverage, Reading, coverage
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.settings.params import branch_settings
from ecmf_pipeline.store import FeatureStore
from tests.extraction.brightness import MeanConfig, Project, reasons


class TestCropsThatComeWithTheCorpus:
    @pytest.fixture
    def cropped(self, project) -> Project:
        project.faces = FaceConfig(source="openface")
        crops = np.full((10, 112, 112, 3), 50, np.uint8)
        for name in ("face", "mute"):
            path = project.folder / f"{name}.npy"
            np.save(path, crops + np.arange(10, dtype=np.uint8)[:, None, None, None])
            self.give(project, name, path)
        return project

    def give(self, project: Project, name: str, path: Path) -> None:
        project.clips = [
            replace(clip, face_path=path.name, face_digest=sha256_file(path), face_bytes=path.stat().st_size)
            if clip.clip_id == name
            else clip
            for clip in project.clips
        ]

    def test_they_are_read_in_place_of_the_video(self, cropped, decodes):
        report = cropped.run(Modality.FACE)
        assert decodes == []
        assert report.done == {"face": 2}
        assert cropped.plan(Modality.FACE).absent == 1
        row = FeatureStore.open(cropped.root(Modality.FACE)).row("face")
        assert row.values[:, 0].tolist() == [51, 56]  # rows 1 and 6 of 10: the first and third of four
        assert row.side["frames"].tolist() == [1, 6]
        assert set(row.side) == {"frames", "boxes", "scores", "landmarks", "landmark_quality"}
        assert np.isnan(row.side["landmark_quality"]).all()

    def test_a_clip_without_pictures_has_a_face_branch_all_the_same(self, cropped, make_clip):
        path = make_clip(cropped.folder / "sound.mp4", video=False, audio_seconds=0.5)
        cropped.clips.append(Clip(ClipId("sound"), path.name, sha256_file(path), has_audio=True))
        crops = cropped.folder / "sound.npy"
        np.save(crops, np.zeros((1, 112, 112, 3), np.uint8))
        self.give(cropped, "sound", crops)
        report = cropped.run(Modality.GLOBAL, Modality.FACE)
        assert report.done == {"global": 3, "face": 3}
        assert len(FeatureStore.open(cropped.root(Modality.FACE)).row("sound").values) == 1

    def test_crops_that_are_none_cost_the_face_branch_of_their_clip(self, cropped):
        path = cropped.folder / "face.npy"
        np.save(path, np.zeros((3, 64, 64, 3), np.uint8))
        self.give(cropped, "face", path)
        report = cropped.run(Modality.GLOBAL, Modality.FACE)
        assert report.done == {"global": 3, "face": 1}
        assert reasons(cropped, Modality.FACE) == {"face": "UnusableFaceCrops"}

    def test_crops_that_changed_since_they_were_indexed_wait_for_index(self, cropped):
        np.save(cropped.folder / "face.npy", np.zeros((3, 112, 112, 3), np.uint8))
        with pytest.raises(TryAgain, match="ChangedSinceIndex 1"):
            cropped.run(Modality.FACE)

    def test_other_crops_are_computed_again_and_another_video_is_not(self, cropped, make_clip):
        cropped.run(Modality.FACE)
        cropped.clips = [replace(clip, digest="other") for clip in cropped.clips]
        assert cropped.plan(Modality.FACE).todo == set()
        path = cropped.folder / "mute.npy"
        np.save(path, np.zeros((3, 112, 112, 3), np.uint8))
        self.give(cropped, "mute", path)
        assert cropped.plan(Modality.FACE).todo == {"mute"}

    def test_they_are_counted_without_settings_from_the_store_that_they_made(self, cropped):
        cropped.run(Modality.FACE)
        table = cropped.folder / "face.csv"
        counted = coverage(Modality.FACE, cropped.clips, {}, root=cropped.root(Modality.FACE), quarantine_path=table)
        assert counted == Coverage(done=2, missing=0, absent=1, quarantined=0)
        nowhere = cropped.folder / "none.zarr"
        fresh = coverage(
            Modality.FACE, cropped.clips, {}, root=nowhere, quarantine_path=table, reading=Reading(face_crops=True)
        )
        assert fresh == Coverage(done=0, missing=2, absent=1, quarantined=0)

    def test_the_length_of_videos_does_not_change_their_fingerprint(self, cropped):
        def settings(**options):
            return branch_settings(Modality.FACE, MeanConfig(), MediaConfig(**options), cropped.faces)

        assert settings(max_side=640) == settings()
        assert settings(frames=4) != settings(frames=8)
