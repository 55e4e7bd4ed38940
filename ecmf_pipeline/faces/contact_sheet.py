"""Draw the contact sheet of a clip: a whole frame with the box, then all crops with time, score and quality."""

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
_LINE_HEIGHT = 14  # of text, in pixels
_GAP = 4
_BACKGROUND, _TEXT, _MUTED_TEXT = (236, 238, 240), (30, 30, 30), (90, 90, 90)
"""The background is grey because pictures may be white to the edge."""
_BOX_COLOUR, _POINT_COLOUR = (0, 190, 80), (255, 200, 0)
_JPEG_QUALITY = 82


@dataclass(frozen=True, slots=True)
class FaceShot:
    """One crop with its metadata.

    Attributes:
        crop: RGB, uint8 (S, S, 3).
        place: Position in the clip: a time such as ``1.24 s``, or the number of the crop.
        score: Confidence of the detector; NaN if unknown.
        quality: Landmark quality; NaN if unknown.
        is_framed: Whether the crop comes from the whole frame that is shown; it gets a border.
    """

    crop: Picture
    place: str
    score: float = float("nan")
    quality: float = float("nan")
    is_framed: bool = False


def draw_sheet(shots: Sequence[FaceShot], frame: Picture | None = None) -> Picture:
    """Draw the contact sheet of a clip.

    Args:
        shots: The crops, in order of time; at least one.
        frame: A whole frame with its box, see `mark_face`; None if there is none.

    Returns:
        RGB, uint8 (H, W, 3).
    """
    cells = [_draw_cell(shot) for shot in shots]
    blank = np.full_like(cells[0], _BACKGROUND)
    columns = min(_COLUMNS, len(cells))
    cells += [blank] * (-len(cells) % columns)
    rows = [np.concatenate(cells[start : start + columns], axis=1) for start in range(0, len(cells), columns)]
    grid = np.concatenate(rows)
    if frame is None:
        return grid
    resized_frame = _resize(frame, round(frame.shape[1] * _FRAME_HEIGHT / frame.shape[0]), _FRAME_HEIGHT)
    width = max(resized_frame.shape[1], grid.shape[1])
    blocks = (resized_frame, np.full((2 * _GAP, width, 3), _BACKGROUND, np.uint8), grid)
    return np.concatenate([_pad_right(block, width) for block in blocks])


def mark_face(
    frame: Picture, box: Sequence[float] | NDArray[np.float32], landmarks: NDArray[np.float32] | None = None
) -> Picture:
    """Draw the box of a face, and its landmarks, (6, 2), if known, into a copy of a frame."""
    import cv2

    marked = frame.copy()
    thickness = max(2, round(min(frame.shape[:2]) / 120))
    left, top, width, height = (round(float(value)) for value in box)
    cv2.rectangle(marked, (left, top), (left + width, top + height), _BOX_COLOUR, thickness)
    for point in [] if landmarks is None else landmarks[np.isfinite(landmarks).all(axis=1)]:
        cv2.circle(marked, (round(float(point[0])), round(float(point[1]))), thickness, _POINT_COLOUR, -1)
    return marked


def jpeg(picture: Picture) -> bytes:
    """Encode a picture as JPEG; the same picture gives the same bytes."""
    import cv2

    bgr = np.ascontiguousarray(picture[..., ::-1])
    succeeded, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not succeeded:
        raise ValueError(f"OpenCV cannot encode a picture of shape {picture.shape} as JPEG")
    content: bytes = encoded.tobytes()
    return content


def _draw_cell(shot: FaceShot) -> Picture:
    import cv2

    cell = np.full((CROP_SIDE + 2 * _LINE_HEIGHT + _GAP, CROP_SIDE + _GAP, 3), _BACKGROUND, np.uint8)
    cell[:CROP_SIDE, :CROP_SIDE] = _resize(shot.crop, CROP_SIDE, CROP_SIDE)
    if shot.is_framed:
        cv2.rectangle(cell, (0, 0), (CROP_SIDE - 1, CROP_SIDE - 1), _BOX_COLOUR, 2)
    values = [f"{name} {value:.2f}" for name, value in (("s", shot.score), ("q", shot.quality)) if np.isfinite(value)]
    for line, (text, colour) in enumerate(((shot.place, _TEXT), (" ".join(values), _MUTED_TEXT)), start=1):
        origin = (2, CROP_SIDE + line * _LINE_HEIGHT - 3)
        cv2.putText(cell, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)
    return cell


def _pad_right(picture: Picture, width: int) -> Picture:
    right = np.full((len(picture), width - picture.shape[1], 3), _BACKGROUND, np.uint8)
    return np.concatenate([picture, right], axis=1)


def _resize(picture: Picture, width: int, height: int) -> Picture:
    import cv2

    is_smaller = picture.shape[0] > height
    scaled: Picture = cv2.resize(
        picture, (width, height), interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    )
    return scaled
