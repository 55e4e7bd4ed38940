"""A clip's faces at a glance: one whole frame with the box, then every crop with its time, score and quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""RGB, (H, W, 3)."""

CROP_SIDE = 112
_COLUMNS = 8
_FRAME_HEIGHT = 240
_LINE = 14  # pixels of one line of text
_GAP = 4
_GROUND, _INK, _QUIET, _BOX = (236, 238, 240), (30, 30, 30), (90, 90, 90), (0, 190, 80)
"""A grey ground: pictures of a corpus may be white to the edge."""
_POINT = (255, 200, 0)
_JPEG_QUALITY = 82


@dataclass(frozen=True, slots=True)
class FaceShot:
    """One crop and what is known of it.

    Attributes:
        crop: RGB, uint8 (S, S, 3).
        place: Where it is from: a time such as ``1.24 s``, or the number of the crop.
        score: The detector's confidence; NaN where unknown.
        quality: Landmark quality; NaN where unknown.
        is_framed: Whether it is the crop of the whole frame that is shown.
    """

    crop: Picture
    place: str
    score: float = float("nan")
    quality: float = float("nan")
    is_framed: bool = False


def draw_sheet(shots: Sequence[FaceShot], frame: Picture | None = None) -> Picture:
    """Draw a clip's sheet.

    Args:
        shots: Its crops, in order of time; at least one.
        frame: A whole frame with its box, see `mark_face`; None where there is none.

    Returns:
        RGB, uint8 (H, W, 3).
    """
    cells = [_cell(shot) for shot in shots]
    blank = np.full_like(cells[0], _GROUND)
    columns = min(_COLUMNS, len(cells))
    cells += [blank] * (-len(cells) % columns)
    rows = [np.concatenate(cells[start : start + columns], axis=1) for start in range(0, len(cells), columns)]
    grid = np.concatenate(rows)
    if frame is None:
        return grid
    whole = _scaled(frame, round(frame.shape[1] * _FRAME_HEIGHT / frame.shape[0]), _FRAME_HEIGHT)
    width = max(whole.shape[1], grid.shape[1])
    blocks = (whole, np.full((2 * _GAP, width, 3), _GROUND, np.uint8), grid)
    return np.concatenate([_widened(block, width) for block in blocks])


def mark_face(
    frame: Picture, box: Sequence[float] | NDArray[np.float32], landmarks: NDArray[np.float32] | None = None
) -> Picture:
    """A frame with a face's box, and where they are known its landmarks, (6, 2), drawn into it."""
    import cv2

    marked = frame.copy()
    thick = max(2, round(min(frame.shape[:2]) / 120))
    left, top, width, height = (round(float(value)) for value in box)
    cv2.rectangle(marked, (left, top), (left + width, top + height), _BOX, thick)
    for point in [] if landmarks is None else landmarks[np.isfinite(landmarks).all(axis=1)]:
        cv2.circle(marked, (round(float(point[0])), round(float(point[1]))), thick, _POINT, -1)
    return marked


def jpeg(picture: Picture) -> bytes:
    """A picture as JPEG; the same picture gives the same bytes."""
    import cv2

    bgr = np.ascontiguousarray(picture[..., ::-1])
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise ValueError(f"OpenCV cannot write a picture of {picture.shape} as JPEG")
    content: bytes = encoded.tobytes()
    return content


def _cell(shot: FaceShot) -> Picture:
    import cv2

    cell = np.full((CROP_SIDE + 2 * _LINE + _GAP, CROP_SIDE + _GAP, 3), _GROUND, np.uint8)
    cell[:CROP_SIDE, :CROP_SIDE] = _scaled(shot.crop, CROP_SIDE, CROP_SIDE)
    if shot.is_framed:
        cv2.rectangle(cell, (0, 0), (CROP_SIDE - 1, CROP_SIDE - 1), _BOX, 2)
    values = [f"{name} {value:.2f}" for name, value in (("s", shot.score), ("q", shot.quality)) if np.isfinite(value)]
    for line, (text, ink) in enumerate(((shot.place, _INK), (" ".join(values), _QUIET)), start=1):
        at = (2, CROP_SIDE + line * _LINE - 3)
        cv2.putText(cell, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.38, ink, 1, cv2.LINE_AA)
    return cell


def _widened(picture: Picture, width: int) -> Picture:
    right = np.full((len(picture), width - picture.shape[1], 3), _GROUND, np.uint8)
    return np.concatenate([picture, right], axis=1)


def _scaled(picture: Picture, width: int, height: int) -> Picture:
    import cv2

    shrinking = picture.shape[0] > height
    scaled: Picture = cv2.resize(
        picture, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    )
    return scaled
