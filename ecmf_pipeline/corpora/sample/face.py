"""Animate the face of a photograph: facial actions displace landmarks, a thin-plate spline warps the pixels.

The actions are those of the Facial Action Coding System (Ekman and Friesen 1978). Each displaces a few of MediaPipe's
face landmarks. A thin-plate spline (Bookstein 1989) interpolates the displacement of the pixels between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator
from skimage.data import astronaut

from ecmf_pipeline.core.console import silence_native_stderr
from ecmf_pipeline.core.errors import ModelError

MIRROR: Mapping[int, int] = MappingProxyType(
    {107: 336, 55: 285, 105: 334, 52: 282, 70: 300, 46: 276}  # brows
    | {160: 387, 159: 386, 158: 385, 144: 373, 145: 374, 153: 380, 33: 263, 133: 362}  # eyes
    | {119: 348, 50: 280, 205: 425, 48: 278}  # cheeks, wings of the nose
    | {61: 291, 78: 308, 40: 270, 37: 267, 80: 310, 82: 312}  # corners and upper lip
    | {91: 321, 84: 314, 88: 318, 87: 317}  # lower lip
    | {176: 400, 150: 379, 136: 365, 172: 397, 132: 361}  # chin, jaw
    | {234: 454, 162: 389, 54: 284, 67: 297}  # outline
)
"""Map each controlled landmark on the left of the photograph to its mirror image on the right."""

MIDLINE = (10, 168, 197, 4, 2, 0, 13, 14, 17, 18, 199, 152)
"""The controlled landmarks on the midline of the face."""

CONTROLLED = (*MIRROR.keys(), *MIRROR.values(), *MIDLINE)

UPPER_LIP_INSIDE, LOWER_LIP_INSIDE = (80, 82, 13), (88, 87, 14)
UPPER_LIP_OUTSIDE, LOWER_LIP_OUTSIDE = (40, 37, 0), (91, 84, 17)
CORNER = (61, 78)
CHIN = (176, 18, 199, 152)
JAW = (150, 136)
UPPER_LID, LOWER_LID = (160, 159, 158), (144, 145, 153)

Displacement = tuple[tuple[int, ...], float, float]
"""Landmarks, and their displacement outwards and downwards in units of the distance between the eyes."""

ACTIONS: Mapping[str, tuple[Displacement, ...]] = MappingProxyType(
    {
        "inner_brow_raise": (((107, 55), -0.02, -0.15), ((105, 52), 0, -0.05)),
        "outer_brow_raise": (((70, 46), 0, -0.10), ((105, 52), 0, -0.11), ((107, 55), 0, -0.04)),
        "brow_lower": (((107, 55), -0.06, 0.13), ((105, 52), -0.02, 0.07)),
        "lid_raise": ((UPPER_LID, 0, -0.06), (LOWER_LID, 0, 0.015)),
        "lid_tighten": ((UPPER_LID, 0, 0.03), (LOWER_LID, 0, -0.04)),
        "lid_droop": ((UPPER_LID, 0, 0.05),),
        "blink": ((UPPER_LID, 0, 0.085), (LOWER_LID, 0, -0.01)),
        "cheek_raise": (((119, 50), 0, -0.05), ((205,), 0.02, -0.04), (LOWER_LID, 0, -0.02)),
        "nose_wrinkle": (((48,), 0.01, -0.05), ((37, 0), 0, -0.04), ((40,), 0, -0.03)),
        "corner_raise": ((CORNER, 0.07, -0.08), ((40, 80, 91, 88), 0.03, -0.04), ((205,), 0.02, -0.03)),
        "corner_lower": (
            (CORNER, 0, 0.11),
            ((40, 80, 91, 88), 0, 0.07),
            ((37, 82, 84, 87), 0, 0.01),
            ((205,), 0, 0.03),
        ),
        "mouth_stretch": ((CORNER, 0.11, 0.03), ((40, 80, 91, 88), 0.06, 0.01)),
        "mouth_narrow": ((CORNER, -0.12, 0), ((40, 80, 91, 88), -0.08, 0)),
        "lip_press": ((UPPER_LIP_OUTSIDE, 0, 0.04), (LOWER_LIP_OUTSIDE, 0, -0.05), ((18,), 0, -0.02)),
        "jaw_drop": (
            (LOWER_LIP_INSIDE, 0, 0.24),
            (LOWER_LIP_OUTSIDE, 0, 0.25),
            (CHIN, 0, 0.27),
            (JAW, 0, 0.15),
            (CORNER, -0.02, 0.09),
        ),
    }
)
"""The displacements of each action at full strength."""

REST: tuple[Displacement, ...] = (
    (CORNER, -0.10, 0.12),
    ((40, 80, 91, 88), -0.06, 0.065),
    ((205,), -0.02, 0.05),
    ((119, 50), 0, 0.02),
    (LOWER_LID, 0, 0.02),
)
"""The displacements that remove the smile of the photograph. `_lip_closing` closes the lips, depending on their gap."""


@dataclass(frozen=True, slots=True)
class FaceRig:
    """The photograph and its control points.

    Attributes:
        photo: RGB, uint8 (H, W, 3).
        points: Control points in photograph pixels, (N, 2): landmarks, then fixed anchors around the head.
        is_landmark: Which points are landmarks, (N,).
        moves: The displacement of the points by each action, in pixels, (N, 2).
        grid_x: Columns of the grid on which the warp is computed, in photograph pixels, (GX,).
        grid_y: Rows of that grid, (GY,).
    """

    photo: NDArray[np.uint8]
    points: NDArray[np.float64]
    is_landmark: NDArray[np.bool_]
    moves: Mapping[str, NDArray[np.float64]]
    grid_x: NDArray[np.float64]
    grid_y: NDArray[np.float64]

    @property
    def centre(self) -> NDArray[np.float64]:
        """The centre of the face in photograph pixels, (2,)."""
        landmarks = self.points[self.is_landmark]
        middle: NDArray[np.float64] = (landmarks.min(axis=0) + landmarks.max(axis=0)) / 2
        return middle

    def displacement(self, amounts: Mapping[str, float]) -> NDArray[np.float64]:
        """Return the displacement of the points by actions of the given strengths, in pixels, (N, 2)."""
        return sum((amount * self.moves[name] for name, amount in amounts.items()), np.zeros_like(self.points))

    def warp(self, displacement: NDArray[np.float64]) -> NDArray[np.float32]:
        """Compute the warp of the head: for each pixel, the offset of its source pixel in the photograph.

        Args:
            displacement: The result of `displacement`, (N, 2).

        Returns:
            Offsets (x, y) in pixels within `box`, (H, W, 2); zero along its border.
        """
        moved = self.points + displacement
        spline = RBFInterpolator(moved, -displacement, kernel="thin_plate_spline")
        columns, rows = np.meshgrid(self.grid_x, self.grid_y)
        offsets = spline(np.stack([columns.ravel(), rows.ravel()], axis=1))  # (GX * GY, 2)
        coarse = offsets.reshape(len(self.grid_y), len(self.grid_x), 2).astype(np.float32)
        left, top, right, bottom = self.box
        across = np.interp(np.arange(left, right), self.grid_x, np.arange(len(self.grid_x)))
        down = np.interp(np.arange(top, bottom), self.grid_y, np.arange(len(self.grid_y)))
        map_x, map_y = np.meshgrid(across.astype(np.float32), down.astype(np.float32))
        dense: NDArray[np.float32] = cv2.remap(coarse, map_x, map_y, cv2.INTER_LINEAR)
        dense = dense * np.minimum(_border_ramp(right - left)[None, :], _border_ramp(bottom - top)[:, None])[..., None]
        # Rounding makes the result independent of the last bits of the solver.
        rounded: NDArray[np.float32] = np.round(dense * 64) / np.float32(64)
        return rounded

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The part of the photograph that moves: left, top, right, bottom."""
        return int(self.grid_x[0]), int(self.grid_y[0]), int(self.grid_x[-1]) + 1, int(self.grid_y[-1]) + 1


def find_landmarks(face_landmarker: Path) -> NDArray[np.float64]:
    """Detect MediaPipe's landmarks of the face in the photograph, rounded to quarter pixels, (478, 2).

    Raises:
        ModelError: If the task file of the landmarker is unusable or detects no face.
    """
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    hint, command = "fetch the default weights again", "ecmf-pipe models"
    options = vision.FaceLandmarkerOptions(base_options=BaseOptions(model_asset_path=str(face_landmarker)))
    try:
        with silence_native_stderr():
            landmarker = vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{face_landmarker} is not a FaceLandmarker task file ({error})", hint, command=command
        ) from error
    photo = astronaut()
    with silence_native_stderr(), landmarker:
        result = landmarker.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=photo))
    if not result.face_landmarks:
        raise ModelError(f"{face_landmarker} detects no face in the sample photograph", hint, command=command)
    height, width = photo.shape[:2]
    landmarks = np.array([[point.x * width, point.y * height] for point in result.face_landmarks[0]])
    quarters: NDArray[np.float64] = np.round(landmarks * 4) / 4
    return quarters


def make_rig(landmarks: NDArray[np.float64]) -> FaceRig:
    """Prepare the photograph for `FaceRig.warp`.

    Args:
        landmarks: The result of `find_landmarks`, (478, 2).
    """
    face = landmarks[list(CONTROLLED)]
    low, high = face.min(axis=0), face.max(axis=0)
    middle, half = (low + high) / 2, (high - low) / 2
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    anchors = middle + np.stack([np.cos(angles), np.sin(angles)], axis=1) * half * 1.5
    # The grid is fine at the lids and lips, which move against each other, and coarse elsewhere.
    (left, top), (right, bottom) = np.round(middle - half * 1.9), np.round(middle + half * 1.9)
    eyes, mouth = landmarks[[159, 145, 386, 374], 1], landmarks[[*CORNER, *UPPER_LIP_OUTSIDE, *LOWER_LIP_OUTSIDE], 1]
    grid_x = [np.linspace(left, right, 16), np.arange(low[0] - 5, high[0] + 5, 3)]
    grid_y = [np.linspace(top, bottom, 20), np.arange(eyes.min() - 8, eyes.max() + 6, 2)]
    grid_y.append(np.arange(mouth.min() - 5, mouth.max() + 14, 1.5))
    return FaceRig(
        photo=astronaut(),
        points=np.concatenate([face, anchors]),
        is_landmark=np.arange(len(face) + len(anchors)) < len(face),
        moves=_all_displacements(landmarks, len(anchors)),
        grid_x=np.unique(np.round(np.concatenate(grid_x))),
        grid_y=np.unique(np.round(np.concatenate(grid_y))),
    )


def _all_displacements(landmarks: NDArray[np.float64], anchors: int) -> dict[str, NDArray[np.float64]]:
    """Return the displacement in pixels of each action, of ``rest`` and of ``close``; anchors do not move."""
    between_eyes = float(np.linalg.norm(landmarks[[33, 133]].mean(axis=0) - landmarks[[263, 362]].mean(axis=0)))
    moves = {}
    for name, action in {**ACTIONS, "rest": REST}.items():
        move = np.zeros((len(landmarks), 2))
        for landmark_ids, outwards, down in action:
            for left in landmark_ids:
                move[left] += np.array([-outwards, down]) * between_eyes
                if left in MIRROR:
                    move[MIRROR[left]] += np.array([outwards, down]) * between_eyes
        moves[name] = move
    moves["close"] = _lip_closing(landmarks)
    still = np.zeros((anchors, 2))
    return {name: np.concatenate([move[list(CONTROLLED)], still]) for name, move in moves.items()}


def _lip_closing(landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the displacement that closes the lips except for a hairline, (478, 2); outer edges follow inner ones."""
    move = np.zeros((len(landmarks), 2))
    left = list(zip(UPPER_LIP_OUTSIDE, UPPER_LIP_INSIDE, LOWER_LIP_INSIDE, LOWER_LIP_OUTSIDE, strict=True))
    right = [tuple(MIRROR[landmark] for landmark in column) for column in left if column[0] in MIRROR]
    for upper_out, upper_in, lower_in, lower_out in [*left, *right]:
        gap = landmarks[lower_in, 1] - landmarks[upper_in, 1]
        seam, hairline = (landmarks[upper_in] + landmarks[lower_in]) / 2, np.array([0, 0.06 * gap])
        move[upper_in] = seam - hairline - landmarks[upper_in]
        move[lower_in] = seam + hairline - landmarks[lower_in]
        move[upper_out, 1], move[lower_out, 1] = 0.35 * gap, -0.4 * gap
    return move


def _border_ramp(length: int) -> NDArray[np.float32]:
    """Return a ramp of ``length`` values: 1 inside, decreasing to 0 over ten values at both ends."""
    distance = np.minimum(np.arange(length), np.arange(length)[::-1])
    fade: NDArray[np.float32] = np.clip(distance / 10, 0, 1).astype(np.float32)
    return fade
