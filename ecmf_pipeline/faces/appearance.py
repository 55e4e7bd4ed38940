"""What a face and a scene look like at a glance: cheap enough for every frame, and enough to tell people apart.

A signature is a colour histogram (CIE L*a*b*, 8 levels each) of the upper and of the lower half of a square around the
face, as square roots, so that the dot product of two is their Bhattacharyya coefficient. Of 30 real clips without a
cut, the boxes shifted and scaled by 5% at random, `unlikeness` was at most 0.05 in 99 of 100 pairs from one clip (0.13
at most), and at least 0.09 in 99 of 100 pairs of different people (26 of these clips, 8 people, no two of them in one
picture).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.faces.boxes import Box, centre
from ecmf_pipeline.faces.config import CROP_MARGIN

Signature = NDArray[np.float32]
"""Unit vector, (1024,)."""

_SAMPLES = 48
_LEVELS = 8
_CHROMA = (64, 192)  # of OpenCV's 8-bit a* and b*: beyond lie colours that pictures hardly have
_CUT = 0.1
"""Between neighbouring samples of real clips without cuts and titles the whole picture's unlikeness stayed below 0.03;
between pictures of different clips it was above 0.12 in 95 of 100 pairs, and 0.86 at the one real cut. A cut that is
missed costs little: faces are compared all the same."""


def signature(picture: NDArray[np.uint8], box: Box) -> Signature:
    """Of a face with its hair and what is around it, read at 48 x 48 points.

    Args:
        picture: RGB, uint8 (H, W, 3).
        box: Left, top, width, height of the face in pixels.
    """
    return _histograms(picture, centre(box), (max(box[2:]) * CROP_MARGIN,) * 2)


def unlikeness(first: Signature, second: Signature) -> float:
    """How much two signatures differ: 0 (not at all) to 1."""
    return max(0.0, 1.0 - float(first @ second))


def find_cuts(frames: NDArray[np.uint8]) -> list[bool]:
    """For each of the sampled frames, uint8 (T, H, W, 3), whether another scene begins with it (never the first)."""
    if len(frames) == 0:
        return []
    height, width = frames.shape[1:3]
    scenes = [_histograms(frame, (width / 2, height / 2), (width, height)) for frame in frames]
    return [False, *(unlikeness(*pair) > _CUT for pair in pairwise(scenes))]


def blend(signatures: Sequence[Signature]) -> Signature:
    """What several pictures of one person have in common."""
    mean = np.sum(signatures, axis=0, dtype=np.float32)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)


def _histograms(picture: NDArray[np.uint8], middle: tuple[float, float], sides: tuple[float, float]) -> Signature:
    import cv2

    offsets = (np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5
    columns = np.clip((middle[0] + offsets * sides[0]).astype(np.int64), 0, picture.shape[1] - 1)
    rows = np.clip((middle[1] + offsets * sides[1]).astype(np.int64), 0, picture.shape[0] - 1)
    colours = cv2.cvtColor(picture[rows[:, None], columns[None, :]], cv2.COLOR_RGB2LAB)
    halves = []
    for half in np.split(colours, 2):
        counts = cv2.calcHist([half], [0, 1, 2], None, [_LEVELS] * 3, [0, 256, *_CHROMA, *_CHROMA]).ravel()
        halves.append(np.sqrt(counts / max(float(counts.sum()), 1.0)))
    joined: Signature = np.concatenate(halves).astype(np.float32)
    length = float(np.linalg.norm(joined))
    return joined / length if length else joined
