"""How far a face's landmarks can be trusted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.faces.boxes import Detection
from ecmf_pipeline.faces.cropping import crop_square

_FRONTAL = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.426], [0.0, 1.008], [-1.029, 0.361], [1.029, 0.361]], np.float64)
"""The six keypoints of a face that looks into the camera, in distances between the eyes: the median over the 31 clips
of real faces in which they were measured, made symmetric."""

_LOOSE_FIT = 0.2
"""Of the distance between the eyes: a face whose keypoints miss the frontal ones by as much has a fit of 1 / e."""

_SIDE = 64
_SLIGHT_BLUR = 1.5  # pixels of 64
_SHARP = 0.7
"""Share of the gradients' energy that a slight blur takes away: 0.73 to 0.82 in the mean of real clips, 0.45 after a
blur of 2% of the face's side, 0.23 after one of 4%."""


def landmark_quality(picture: NDArray[np.uint8], face: Detection) -> float:
    """Quality of a face's landmarks, 0 to 1: fit x inside x detail.

    - fit: how well the six keypoints, moved, turned and scaled, meet those of a frontal face; exp(-(e / 0.2)^2), where
      e is the root mean square of what is left, in distances between the eyes. Low where the face is turned away.
    - inside: share of eyes, nose and mouth that lie inside the box.
    - detail: share of the gradients' energy in the box that a slight blur takes away, over 0.7 and at most 1. Low where
      the picture is blurred, or the face has few pixels: what lies in a blur is guessed.

    Args:
        picture: RGB, uint8 (H, W, 3).
        face: With its keypoints.

    Returns:
        NaN where there are no keypoints.
    """
    if not np.isfinite(face.landmarks).all():
        return float("nan")
    return fit(face.landmarks) * _inside(face) * _detail(picture, face)


def fit(landmarks: NDArray[np.float32]) -> float:
    """How well keypoints, (6, 2), meet those of a frontal face under a similarity transform: 0 to 1."""
    found = landmarks[:, 0] + 1j * landmarks[:, 1].astype(np.float64)
    frontal = _FRONTAL[:, 0] + 1j * _FRONTAL[:, 1]  # complex: turning and scaling are one multiplication
    found, frontal = found - found.mean(), frontal - frontal.mean()
    turn = np.vdot(frontal, found) / np.vdot(frontal, frontal)
    if abs(turn) == 0:
        return 0.0
    error = np.sqrt(np.mean(np.abs(found - turn * frontal) ** 2)) / abs(turn)
    return float(np.exp(-((error / _LOOSE_FIT) ** 2)))


def _inside(face: Detection) -> float:
    left, top, width, height = face.box
    across, down = face.landmarks[:4, 0], face.landmarks[:4, 1]
    lies = (across >= left) & (across <= left + width) & (down >= top) & (down <= top + height)
    return float(lies.mean())


def _detail(picture: NDArray[np.uint8], face: Detection) -> float:
    import cv2

    grey = cv2.cvtColor(crop_square(picture, face.box, _SIDE, margin=1.0), cv2.COLOR_RGB2GRAY).astype(np.float32)
    energy = _gradients(grey)
    if energy == 0:
        return 0.0
    lost = 1 - _gradients(cv2.GaussianBlur(grey, (0, 0), _SLIGHT_BLUR)) / energy
    return float(min(1.0, lost / _SHARP))


def _gradients(grey: NDArray[np.float32]) -> float:
    return float((np.diff(grey, axis=0) ** 2).mean() + (np.diff(grey, axis=1) ** 2).mean())
