"""Faces as boxes in a picture, and how boxes lie to each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""

KEYPOINTS = 6
"""BlazeFace's: right eye, left eye (the person's own right and left), tip of the nose, mouth, right ear, left ear."""


def unknown_landmarks() -> NDArray[np.float32]:
    """NaN for each keypoint, (6, 2)."""
    return np.full((KEYPOINTS, 2), np.nan, np.float32)


@dataclass(frozen=True, slots=True)
class Detection:
    """One face in one frame.

    Attributes:
        box: Left, top, width, height in pixels.
        score: The detector's confidence.
        landmarks: Its keypoints in pixels, float32 (6, 2); NaN where unknown.
    """

    box: Box
    score: float
    landmarks: NDArray[np.float32] = field(default_factory=unknown_landmarks, compare=False)


def centre(box: Box) -> tuple[float, float]:
    """Of a box."""
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def distance(first: Box, second: Box) -> float:
    """Pixels between the centres of two boxes."""
    return float(np.hypot(centre(first)[0] - centre(second)[0], centre(first)[1] - centre(second)[1]))


def shared_area(first: Box, second: Box) -> float:
    """Square pixels that two boxes have in common."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def intersection_over_union(first: Box, second: Box) -> float:
    """How much two boxes overlap: 0 to 1."""
    shared = shared_area(first, second)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def share_inside(first: Box, second: Box) -> float:
    """Share of the smaller of two boxes that lies in the other: 0 to 1."""
    return shared_area(first, second) / min(first[2] * first[3], second[2] * second[3])
