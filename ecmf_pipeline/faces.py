"""Find faces, follow the main one through the clip, and cut it out.

The detector is MediaPipe's BlazeFace (arXiv 1907.05047) through its Tasks API. The main face is one person: detections
are linked into tracks by overlap and nearness, and the track with the most size, centrality and confidence over the
whole clip wins, so that a listener who is larger for a moment does not take over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecmf_pipeline.config import Config
from ecmf_pipeline.errors import ModelError, NoFaceFound
from ecmf_pipeline.files import sha256_file
from ecmf_pipeline.quiet import native_stderr_silenced

CROP_MARGIN = 1.6
"""Side of the square crop over the side of the face's box: landmark models want some surroundings."""

_LEAST_OVERLAP = 0.2
_SAME_FACE = 0.3
_FARTHEST_STEP = 0.7  # of the box's side: how far a head moves between two sampled frames


class FaceConfig(Config):
    """How faces are found and cut out.

    Attributes:
        detector: BlazeFace model file (tflite).
        min_confidence: Detections below this score are not faces.
        crop_size: Side of the crops in pixels.
    """

    detector: Path = Path("data/models/face_landmarker/face_detector.tflite")
    min_confidence: float = Field(0.5, gt=0, lt=1)
    crop_size: int = Field(256, ge=64)

    def settings(self) -> dict[str, Any]:
        """All that changes the crops."""
        if not self.detector.is_file():
            raise ModelError(f"the face detector {self.detector} is missing", "run `ecmf-pipe models`")
        return {
            "detector": sha256_file(self.detector),
            "min_confidence": self.min_confidence,
            "crop_size": self.crop_size,
            "margin": CROP_MARGIN,
            "recipe": 1,  # raised whenever a change of code changes the crops
        }


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """The main face of a clip.

    Attributes:
        crops: Square RGB crops, the box's side being ``1 / CROP_MARGIN`` of theirs, uint8 (F, S, S, 3).
        frames: The sampled frame each crop was cut from, (F,).
        boxes: Boxes in pixels of the sampled frames: left, top, width, height, float32 (F, 4).
        scores: The detector's confidence, float32 (F,).
    """

    crops: NDArray[np.uint8]
    frames: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Detection:
    """One face in one frame: left, top, width, height in pixels, and the detector's confidence."""

    box: tuple[float, float, float, float]
    score: float


@dataclass(slots=True)
class _Track:
    steps: list[tuple[int, Detection]] = field(default_factory=list)

    @property
    def last(self) -> Detection:
        return self.steps[-1][1]


class FaceFinder:
    """Finds the main face of clips; holds a native detector, so close it (or use it as a context manager)."""

    def __init__(self, config: FaceConfig) -> None:
        from mediapipe.tasks.python import BaseOptions, vision

        if not config.detector.is_file():
            raise ModelError(f"the face detector {config.detector} is missing", "run `ecmf-pipe models`")
        self._config = config
        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_path=str(config.detector)),
            min_detection_confidence=config.min_confidence,
        )
        with native_stderr_silenced():
            self._detector = vision.FaceDetector.create_from_options(options)
            self.detect(np.zeros((64, 64, 3), np.uint8))  # the first picture brings more chatter

    def __enter__(self) -> FaceFinder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the native detector."""
        with native_stderr_silenced():
            self._detector.close()

    def detect(self, picture: NDArray[np.uint8]) -> list[Detection]:
        """All faces of one RGB picture, uint8 (H, W, 3), the surest first.

        The detector sees 128 x 128 pixels of whatever it is given, so that a face of a tenth of a wide picture is lost:
        wide and tall pictures are looked at once whole and once in overlapping squares.
        """
        import mediapipe

        found = []
        for left, top, width, height in _views(picture.shape[1], picture.shape[0]):
            view = np.ascontiguousarray(picture[top : top + height, left : left + width])
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=view)
            for detection in self._detector.detect(image).detections:
                box, score = detection.bounding_box, float(detection.categories[0].score)
                found.append(Detection((left + box.origin_x, top + box.origin_y, box.width, box.height), score))
        return _distinct(found)

    def track(self, frames: NDArray[np.uint8]) -> FaceTrack:
        """Follow the main face through sampled frames, uint8 (T, H, W, 3).

        Raises:
            NoFaceFound: When no frame shows a face.
        """
        with native_stderr_silenced():
            detections = [self.detect(frame) for frame in frames]
        steps = main_track(detections, height=frames.shape[1], width=frames.shape[2])
        if not steps:
            raise NoFaceFound(f"0 of {len(frames)} sampled frames show a face")
        return FaceTrack(
            crops=np.stack([crop_square(frames[index], face.box, self._config.crop_size) for index, face in steps]),
            frames=np.array([index for index, _ in steps], np.int64),
            boxes=np.array([face.box for _, face in steps], np.float32),
            scores=np.array([face.score for _, face in steps], np.float32),
        )


def main_track(detections: Sequence[Sequence[Detection]], *, height: int, width: int) -> list[tuple[int, Detection]]:
    """The frames and boxes of the clip's main person.

    Args:
        detections: Faces of each sampled frame.
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.

    Returns:
        Frame index and detection, in order of time; frames that do not show the person are left out.
    """
    tracks: list[_Track] = []
    for index, faces in enumerate(detections):
        waiting = list(tracks)
        for face in sorted(faces, key=lambda face: -face.score):
            nearest = max(waiting, key=lambda track: _likeness(track.last.box, face.box), default=None)
            if nearest is None or _likeness(nearest.last.box, face.box) <= 0:
                nearest = _Track()
                tracks.append(nearest)
            else:
                waiting.remove(nearest)
            nearest.steps.append((index, face))
    best = max(tracks, key=lambda track: sum(_weight(face, height, width) for _, face in track.steps), default=None)
    return best.steps if best else []


def crop_square(picture: NDArray[np.uint8], box: tuple[float, float, float, float], size: int) -> NDArray[np.uint8]:
    """Cut a square around a face, edge pixels continuing where it leaves the picture.

    Args:
        picture: RGB, uint8 (H, W, 3).
        box: Left, top, width, height of the face in pixels.
        size: Side of the crop, in pixels.

    Returns:
        uint8 (size, size, 3), the box's longer side being ``size / CROP_MARGIN``.
    """
    import cv2

    left, top, width, height = box
    side = max(2, round(max(width, height) * CROP_MARGIN))
    x, y = round(left + width / 2 - side / 2), round(top + height / 2 - side / 2)
    rows = np.clip(np.arange(y, y + side), 0, picture.shape[0] - 1)
    columns = np.clip(np.arange(x, x + side), 0, picture.shape[1] - 1)
    square = picture[rows[:, None], columns[None, :]]
    shrinking = side > size
    crop: NDArray[np.uint8] = cv2.resize(
        square, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    )
    return crop


def _views(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """The parts of a picture that are looked at, as left, top, width, height: all of it, then overlapping squares."""
    whole = (0, 0, width, height)
    side, length = min(width, height), max(width, height)
    if length < 1.2 * side:
        return [whole]
    count = int(np.ceil(2 * (length - side) / side)) + 1
    starts = np.linspace(0, length - side, count).round().astype(int).tolist()
    return [whole, *((start, 0, side, side) if width > height else (0, start, side, side) for start in starts)]


def _distinct(detections: Sequence[Detection]) -> list[Detection]:
    """One detection a face, where several views show it: the surest."""
    kept: list[Detection] = []
    for detection in sorted(detections, key=lambda one: -one.score):
        if all(_intersection_over_union(detection.box, other.box) < _SAME_FACE for other in kept):
            kept.append(detection)
    return kept


def _likeness(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> float:
    """How likely two boxes of neighbouring samples are one person; 0 or less when they cannot be."""
    overlap = _intersection_over_union(first, second)
    side = max(first[2], first[3], second[2], second[3])
    step = float(
        np.hypot(
            first[0] + first[2] / 2 - second[0] - second[2] / 2, first[1] + first[3] / 2 - second[1] - second[3] / 2
        )
    )
    if overlap < _LEAST_OVERLAP and step > _FARTHEST_STEP * side:
        return 0.0
    return overlap + max(0.0, 1 - step / side) + 1e-6


def _intersection_over_union(
    first: tuple[float, float, float, float], second: tuple[float, float, float, float]
) -> float:
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def _weight(face: Detection, height: int, width: int) -> float:
    """Size, centrality and confidence of one detection."""
    left, top, box_width, box_height = face.box
    away = np.hypot((left + box_width / 2) / width - 0.5, (top + box_height / 2) / height - 0.5) / np.sqrt(0.5)
    size = np.sqrt(box_width * box_height / (width * height))
    return float(size * (1 - 0.5 * away) * face.score)
