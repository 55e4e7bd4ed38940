"""Params of the faces; this module imports no heavy library."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.weights import weights_sha256

CROP_MARGIN = 1.6
"""Side of the square crop divided by the side of the face box. Landmark models need some surroundings."""


class FaceConfig(Config):
    """Params of the detection and cropping of faces.

    Attributes:
        source: ``detect``: detect them in the video. ``openface``: read the crops of the MER corpora
            (``openface_face/N/N.npy``, or pictures in ``openface_face/N``); of the other keys only ``crop_size`` then
            has an effect.
        detector: BlazeFace model file (tflite).
        min_confidence: Minimum score of a detection.
        range: ``short``: faces near the camera, at least a seventh of the shorter side of the picture. ``full``: also
            small, distant faces, at several times the cost; see `detector.detection_views`.
        align: ``eyes``: crops are rotated until the eyes are level. ``none``: crops are not rotated.
        crop_size: Side of the crops in pixels.
    """

    source: Literal["detect", "openface"] = "detect"
    detector: Path = Path("data/models/face_landmarker/face_detector.tflite")
    min_confidence: float = Field(0.5, gt=0, lt=1)
    range: Literal["short", "full"] = "short"
    align: Literal["none", "eyes"] = "none"
    crop_size: int = Field(256, ge=64)

    def settings(self, *, weights_required: bool = True) -> dict[str, Any]:
        """Return all settings that change the crops.

        Args:
            weights_required: Whether the detector must be on this machine; see `weights_sha256`.

        Raises:
            MissingWeights: If the detector is missing and required.
            ModelError: If it is the default detector and was altered.
        """
        # Increase the recipe when a code change changes the crops.
        if self.source == "openface":
            return {**self.model_dump(include={"source", "crop_size"}), "margin": CROP_MARGIN, "recipe": 1}
        detector = weights_sha256(self.detector, required=weights_required)
        return {**self.model_dump(mode="json"), "detector": detector, "margin": CROP_MARGIN, "recipe": 2}
