"""Makes `brightness` importable, and three clips to extract from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from skimage import data

from ecmf_pipeline.extraction import step as opening_module
from ecmf_pipeline.faces.config import FaceConfig
from tests.extraction.brightness import Project


@pytest.fixture
def project(tmp_path, models, make_clip) -> Project:
    made = Project(tmp_path, FaceConfig(detector=models / "face_landmarker" / "face_detector.tflite"))
    face = data.astronaut()[:256, 64:384]
    made.add(make_clip(tmp_path / "face.mp4", pictures=8, photograph=face, audio_seconds=0.5))
    made.add(make_clip(tmp_path / "mute.mp4", pictures=8, photograph=face), has_audio=False)
    made.add(make_clip(tmp_path / "tree.mp4", pictures=8, audio_seconds=0.5))
    return made


@pytest.fixture
def decodes(monkeypatch) -> list[str]:
    """The clips whose pictures were decoded, in order."""
    opened: list[str] = []
    real = opening_module.read_samplings

    def counted(path: Path, *given: Any):
        opened.append(path.stem)
        return real(path, *given)

    monkeypatch.setattr(opening_module, "read_samplings", counted)
    return opened
