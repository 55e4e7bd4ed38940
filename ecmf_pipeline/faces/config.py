"""Settings of the faces; importing them loads nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import remembered_sha256

CROP_MARGIN = 1.6
"""Side of the square crop over the side of the face's box: landmark models want some surroundings."""


class FaceConfig(Config):
    """How faces are found and cut out.

    Attributes:
        source: ``detect``: find them in the video. ``openface``: read the crops that come with the MER corpora
            (``openface_face/N/N.npy``); then of the other keys only ``crop_size`` counts.
        detector: BlazeFace model file (tflite).
        min_confidence: Detections below this score are not faces.
        range: ``short``: faces near the camera, of a seventh of the picture's shorter side or more. ``full``: small,
            distant ones too, at several times the cost; see `detector.views`.
        align: ``eyes``: crops are turned so that the eyes are level. ``none``: they are as they are in the picture.
        crop_size: Side of the crops in pixels.
    """

    source: Literal["detect", "openface"] = "detect"
    detector: Path = Path("data/models/face_landmarker/face_detector.tflite")
    min_confidence: float = Field(0.5, gt=0, lt=1)
    range: Literal["short", "full"] = "short"
    align: Literal["none", "eyes"] = "none"
    crop_size: int = Field(256, ge=64)

    def settings(self) -> dict[str, Any]:
        """All that changes the crops."""
        # A recipe is raised whenever a change of code changes the crops.
        if self.source == "openface":
            return {**self.model_dump(include={"source", "crop_size"}), "margin": CROP_MARGIN, "recipe": 1}
        if not self.detector.is_file():
            raise ModelError(f"the face detector {self.detector} is missing", "run `ecmf-pipe models`")
        detector = remembered_sha256(self.detector)
        return {**self.model_dump(mode="json"), "detector": detector, "margin": CROP_MARGIN, "recipe": 2}
