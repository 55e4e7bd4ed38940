"""Faces that OpenFace has cut already: the MER corpora's ``openface_face/N/N.npy``."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import FileUnreachable, UnusableFaceCrops
from ecmf_pipeline.faces.config import CROP_MARGIN
from ecmf_pipeline.faces.detector import FaceTrack
from ecmf_pipeline.faces.tracking import KEYPOINTS

SIDE = 112
"""Pixels of OpenFace's square crops."""

_PADDING = round(SIDE * (CROP_MARGIN - 1) / 2)
"""Pixels that are added on each side. OpenFace's crops are tight: turned and scaled so that the face, from the brows to
the chin, fills them. So the whole of such a crop counts as the face's box, and edge pixels continue around it until the
box has its usual share of the crop, which is where encoders look for it."""


_BROKEN_HEADERS = (ValueError, TypeError, SyntaxError, TokenError, RecursionError, OverflowError, EOFError)
"""What NumPy raises on files that are none of its own, or are cut off."""


def read_openface(path: Path, *, count: int | Literal["all"], size: int) -> FaceTrack:
    """Read crops, evenly sampled over the file.

    Nothing in the file is executed, and only the rows that are sampled are read. When each was shown is unknown: the
    file does not say at which rate the video ran, nor whether frames were left out.

    Args:
        path: BGR, uint8 (T, 112, 112, 3).
        count: How many crops: the middles of as many equal spans, fewer where the file has fewer. ``all``: each.
        size: Side of the crops that are returned.

    Returns:
        A track whose ``frames`` are rows of the file. Each box is that of the whole crop, in its pixels; scores and
        landmarks are unknown.

    Raises:
        UnusableFaceCrops: When the file is of another shape or type, is empty, or is no npy file.
        FileUnreachable: When it cannot be read.
    """
    stored = _mapped(path)
    return _track(stored, np.arange(len(stored)) if count == "all" else evenly(len(stored), count), size)


def read_openface_rows(path: Path, rows: NDArray[np.int64], *, size: int) -> FaceTrack:
    """Read given crops of a file, (F,) row numbers; see `read_openface`.

    Raises:
        UnusableFaceCrops: When the file is of another shape or type, or has fewer crops.
        FileUnreachable: When it cannot be read.
    """
    stored = _mapped(path)
    if len(rows) and rows.max() >= len(stored):
        raise UnusableFaceCrops(f"{path.name} holds {len(stored)} crops, and number {rows.max()} is asked for")
    return _track(stored, rows, size)


def _track(stored: NDArray[np.uint8], rows: NDArray[np.int64], size: int) -> FaceTrack:
    import cv2

    padded = np.pad(stored[rows][..., ::-1], [(0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)], mode="edge")
    shrinking = padded.shape[1] > size
    crops = [
        cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)
        for crop in padded
    ]
    return FaceTrack(
        crops=np.stack(crops),
        frames=rows,
        boxes=np.tile(np.array([0, 0, SIDE, SIDE], np.float32), (len(rows), 1)),
        scores=np.full(len(rows), np.nan, np.float32),
        landmarks=np.full((len(rows), KEYPOINTS, 2), np.nan, np.float32),
        landmark_quality=np.full(len(rows), np.nan, np.float32),
    )


def evenly(length: int, count: int) -> NDArray[np.int64]:
    """The middles of ``count`` equal spans of ``length`` rows: increasing, without repeats."""
    return np.unique(((np.arange(count) + 0.5) * length / count).astype(np.int64))


def _mapped(path: Path) -> NDArray[np.uint8]:
    hint = f"expected uint8 (T, {SIDE}, {SIDE}, 3), as OpenFace's crops in the MER corpora are"
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise FileUnreachable("the file of its face crops vanished after it was indexed") from error
    except OSError as error:
        if error.strerror:
            raise FileUnreachable(f"the file of its face crops cannot be read: {error.strerror}") from error
        raise UnusableFaceCrops(f"{path.name} is no npy file; {hint}") from error
    except _BROKEN_HEADERS as error:
        raise UnusableFaceCrops(f"{path.name} is no whole npy file of numbers; {hint}") from error
    if not isinstance(stored, np.ndarray):  # an npz archive
        stored.close()
        raise UnusableFaceCrops(f"{path.name} is an archive; {hint}")
    if stored.dtype != np.uint8 or stored.ndim != 4 or stored.shape[1:] != (SIDE, SIDE, 3):
        raise UnusableFaceCrops(f"{path.name} holds {stored.dtype} {stored.shape}; {hint}")
    if len(stored) == 0:
        raise UnusableFaceCrops(f"{path.name} holds no crop at all; {hint}")
    return stored
