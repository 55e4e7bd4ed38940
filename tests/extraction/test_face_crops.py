"""Face crops that come with the corpus."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Modality
from ecmf_pipeline.core.errors import TryAgain
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.extraction.run import BranchInputs, Coverage, coverage
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.settings.params import branch_settings
from ecmf_pipeline.store import FeatureStore
from tests.extraction.brightness import MeanConfig, Project, reasons


class TestCropsOfTheCorpus:
    @pytest.fixture
    def project_with_crops(self, project) -> Project:
        project.faces = FaceConfig(source="openface")
        crops = np.full((10, 112, 112, 3), 50, np.uint8)
        for name in ("face", "mute"):
            path = project.folder / f"{name}.npy"
            np.save(path, crops + np.arange(10, dtype=np.uint8)[:, None, None, None])
            self.set_crops(project, name, path)
        return project

    def set_crops(self, project: Project, name: str, path: Path) -> None:
        project.clips = [
            replace(clip, face_path=path.name, face_digest=sha256_file(path), face_bytes=path.stat().st_size)
            if clip.clip_id == name
            else clip
            for clip in project.clips
        ]

    def test_crops_are_read_instead_of_the_video(self, project_with_crops, decodes):
        report = project_with_crops.run(Modality.FACE)
        assert decodes == []
        assert report.done == {"face": 2}
        assert project_with_crops.plan(Modality.FACE).absent == 1
        row = FeatureStore.open(project_with_crops.root(Modality.FACE)).row("face")
        assert row.values[:, 0].tolist() == [51, 56]  # crops 1 and 6 of 10: the first and third of four samples
        assert row.side["frames"].tolist() == [1, 6]
        assert set(row.side) == {"frames", "boxes", "scores", "landmarks", "landmark_quality"}
        assert np.isnan(row.side["landmark_quality"]).all()

    def test_a_clip_without_video_can_have_a_face_branch(self, project_with_crops, make_clip):
        path = make_clip(project_with_crops.folder / "sound.mp4", video=False, audio_seconds=0.5)
        project_with_crops.clips.append(
            Clip(ClipId("sound"), path.name, sha256_file(path), has_audio=True, file_digest=sha256_file(path))
        )
        crops = project_with_crops.folder / "sound.npy"
        np.save(crops, np.zeros((1, 112, 112, 3), np.uint8))
        self.set_crops(project_with_crops, "sound", crops)
        report = project_with_crops.run(Modality.GLOBAL, Modality.FACE)
        assert report.done == {"global": 3, "face": 3}
        assert len(FeatureStore.open(project_with_crops.root(Modality.FACE)).row("sound").values) == 1

    def test_unusable_crops_affect_only_the_face_branch_of_their_clip(self, project_with_crops):
        path = project_with_crops.folder / "face.npy"
        np.save(path, np.zeros((3, 64, 64, 3), np.uint8))
        self.set_crops(project_with_crops, "face", path)
        report = project_with_crops.run(Modality.GLOBAL, Modality.FACE)
        assert report.done == {"global": 3, "face": 1}
        assert reasons(project_with_crops, Modality.FACE) == {"face": "UnusableFaceCrops"}

    def test_crops_that_changed_since_indexing_are_retried_after_index(self, project_with_crops):
        np.save(project_with_crops.folder / "face.npy", np.zeros((3, 112, 112, 3), np.uint8))
        with pytest.raises(TryAgain, match="ChangedSinceIndex 1"):
            project_with_crops.run(Modality.FACE)

    def test_changed_crops_are_computed_again_but_not_for_a_changed_video(self, project_with_crops, make_clip):
        project_with_crops.run(Modality.FACE)
        project_with_crops.clips = [
            replace(clip, digest="other", file_digest="other") for clip in project_with_crops.clips
        ]
        assert project_with_crops.plan(Modality.FACE).todo == set()
        path = project_with_crops.folder / "mute.npy"
        np.save(path, np.zeros((3, 112, 112, 3), np.uint8))
        self.set_crops(project_with_crops, "mute", path)
        assert project_with_crops.plan(Modality.FACE).todo == {"mute"}

    def test_coverage_of_crops_needs_only_the_store(self, project_with_crops):
        project_with_crops.run(Modality.FACE)
        table = project_with_crops.folder / "face.csv"
        counts = coverage(
            Modality.FACE,
            project_with_crops.clips,
            {},
            root=project_with_crops.root(Modality.FACE),
            quarantine_path=table,
        )
        assert counts == Coverage(done=2, missing=0, absent=1, quarantined=0)
        missing_store = project_with_crops.folder / "none.zarr"
        counts_without_store = coverage(
            Modality.FACE,
            project_with_crops.clips,
            {},
            root=missing_store,
            quarantine_path=table,
            branch_inputs=BranchInputs(face_crops=True),
        )
        assert counts_without_store == Coverage(done=0, missing=2, absent=1, quarantined=0)

    def test_max_side_does_not_change_the_settings_of_crops(self, project_with_crops):
        def settings(**options):
            return branch_settings(Modality.FACE, MeanConfig(), MediaConfig(**options), project_with_crops.faces)

        assert settings(max_side=640) == settings()
        assert settings(frames=4) != settings(frames=8)
