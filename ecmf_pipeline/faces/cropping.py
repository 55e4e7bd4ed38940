"""Cut faces out of pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.faces.boxes import Box, centre
from ecmf_pipeline.faces.config import CROP_MARGIN

_LEAST_EYE_DISTANCE = 0.15
"""Of the box's width: eyes that lie nearer to each other are those of a profile, and their slope means little."""


def crop_square(picture: NDArray[np.uint8], box: Box, size: int, *, margin: float = CROP_MARGIN) -> NDArray[np.uint8]:
    """Cut a square around a face, edge pixels continuing where it leaves the picture.

    Args:
        picture: RGB, uint8 (H, W, 3).
        box: Left, top, width, height of the face in pixels.
        size: Side of the crop, in pixels.
        margin: Side of the square over the box's longer side.

    Returns:
        uint8 (size, size, 3), the box's longer side being ``size / margin``.
    """
    import cv2

    middle = centre(box)
    side = max(2, round(max(box[2], box[3]) * margin))
    x, y = round(middle[0] - side / 2), round(middle[1] - side / 2)
    rows = np.clip(np.arange(y, y + side), 0, picture.shape[0] - 1)
    columns = np.clip(np.arange(x, x + side), 0, picture.shape[1] - 1)
    square = picture[rows[:, None], columns[None, :]]
    shrinking = side > size
    crop: NDArray[np.uint8] = cv2.resize(
        square, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    )
    return crop


def crop_level(picture: NDArray[np.uint8], box: Box, landmarks: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Cut a square as `crop_square` does, turned about the box's middle so that the eyes are level.

    A profile, whose eyes lie nearly in one place, and a face of which they are unknown are left as they are.

    Args:
        picture: RGB, uint8 (H, W, 3).
        box: Left, top, width, height of the face in pixels.
        landmarks: Its keypoints in pixels, (6, 2); the first two are the eyes.
        size: Side of the crop, in pixels.

    Returns:
        uint8 (size, size, 3).
    """
    import cv2

    angle = eye_angle(box, landmarks)
    if angle == 0.0:
        return crop_square(picture, box, size)
    # First scaled, with enough around it to turn in: turning alone would leave out pixels where it shrinks.
    wide = int(np.ceil(size * np.sqrt(2)))
    around = crop_square(picture, box, wide, margin=CROP_MARGIN * wide / size)
    turn = cv2.getRotationMatrix2D(((wide - 1) / 2, (wide - 1) / 2), float(np.degrees(angle)), 1.0)
    turn[:, 2] -= (wide - size) / 2
    level: NDArray[np.uint8] = cv2.warpAffine(
        around, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return level


def eye_angle(box: Box, landmarks: NDArray[np.float32]) -> float:
    """Slope of the line through the eyes, in radians, clockwise as the picture is seen; 0 where it means little."""
    across, down = (landmarks[1] - landmarks[0]).tolist()  # from the eye that is on the left in the picture
    if not np.hypot(across, down) >= _LEAST_EYE_DISTANCE * box[2]:  # NaN is not
        return 0.0
    return float(np.arctan2(down, across))
