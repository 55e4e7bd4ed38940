"""Fixtures: a project of three clips, and a record of decoded clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from skimage import data

from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media import clip_reader
from tests.extraction.brightness import Project


@pytest.fixture
def project(tmp_path, models, make_clip) -> Project:
    project = Project(tmp_path, FaceConfig(detector=models / "face_landmarker" / "face_detector.tflite"))
    face = data.astronaut()[:256, 64:384]
    project.add(make_clip(tmp_path / "face.mp4", pictures=8, photograph=face, audio_seconds=0.5))
    project.add(make_clip(tmp_path / "mute.mp4", pictures=8, photograph=face), has_audio=False)
    project.add(make_clip(tmp_path / "tree.mp4", pictures=8, audio_seconds=0.5))
    return project


@pytest.fixture
def decodes(monkeypatch) -> list[str]:
    """Names of the clips whose frames were decoded, in order."""
    decoded: list[str] = []
    read_samplings = clip_reader.read_samplings

    def record_and_read(path: Path, *args: Any):
        decoded.append(path.stem)
        return read_samplings(path, *args)

    monkeypatch.setattr(clip_reader, "read_samplings", record_and_read)
    return decoded
