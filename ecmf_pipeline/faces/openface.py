"""Read existing face crops by OpenFace: ``openface_face/N/N.npy`` of the MER corpora, or pictures in that folder."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import FileUnreachable, UnusableFaceCrops
from ecmf_pipeline.core.files import LFS_COMMAND, LFS_PROBLEM, is_lfs_pointer, picture_files
from ecmf_pipeline.faces.config import CROP_MARGIN
from ecmf_pipeline.faces.detector import FaceTrack
from ecmf_pipeline.faces.tracking import KEYPOINTS

SIDE = 112
"""Side of OpenFace's square crops in pixels."""

_PADDING = round(SIDE * (CROP_MARGIN - 1) / 2)
"""Pixels that are added on each side. OpenFace's crops are tight: rotated and scaled until the face, from the brows to
the chin, fills them. The whole crop therefore counts as the face box, and edge pixels are repeated around it until
the box has its usual share of the crop, as encoders expect."""


_BROKEN_HEADERS = (ValueError, TypeError, SyntaxError, TokenError, RecursionError, OverflowError, EOFError)
"""Exceptions of NumPy for files that are truncated or not npy files."""


def read_openface(path: Path, *, count: int | Literal["all"], size: int) -> FaceTrack:
    """Read crops, even_rows sampled over the file.

    Nothing in the file is executed, and only the sampled rows are read. The time of each crop is unknown: the file does
    not contain the frame rate of the video, nor whether frames were left out.

    Args:
        path: BGR, uint8 (T, 112, 112, 3); or a folder of pictures of 112 x 112 pixels, in order of their names.
        count: Number of crops: the middles of as many equal spans, or all crops if the file has fewer. ``all``: each.
        size: Side of the returned crops.

    Returns:
        A track whose ``frames`` are rows of the file or numbers of pictures. Each box covers the whole crop, in pixels
        of the crop; scores and landmarks are unknown.

    Raises:
        UnusableFaceCrops: If the file is of another shape or type, is empty, or is not an npy file.
        FileUnreachable: If it cannot be read.
    """
    stored = _open_crops(path)
    return _build_track(stored, np.arange(len(stored)) if count == "all" else even_rows(len(stored), count), size)


def read_openface_rows(path: Path, rows: NDArray[np.int64], *, size: int) -> FaceTrack:
    """Read the crops with the given row numbers, (F,), from a file; see `read_openface`.

    Raises:
        UnusableFaceCrops: If the file is of another shape or type, or has fewer crops.
        FileUnreachable: If it cannot be read.
    """
    stored = _open_crops(path)
    if len(rows) and rows.max() >= len(stored):
        raise UnusableFaceCrops(f"{path.name} has {len(stored)} crops, row {rows.max()} does not exist")
    return _build_track(stored, rows, size)


class _PictureFolder:
    """The pictures of a folder as rows of an array that are read when they are selected."""

    def __init__(self, folder: Path) -> None:
        self._files = picture_files(folder)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([self._read(self._files[row]) for row in rows])

    def _read(self, path: Path) -> NDArray[np.uint8]:
        import cv2

        try:
            picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        except OSError as error:
            raise FileUnreachable(f"cannot read face crop {path.name}: {error.strerror}") from error
        except cv2.error:  # an empty file
            picture = None
        if picture is None:
            problem = f"{LFS_PROBLEM}; run {LFS_COMMAND}" if is_lfs_pointer(path) else "is not a readable picture"
            raise UnusableFaceCrops(f"{path.name} {problem}")
        if picture.shape != (SIDE, SIDE, 3):
            raise UnusableFaceCrops(f"{path.name} has shape {picture.shape}; expected {(SIDE, SIDE, 3)} by OpenFace")
        return np.asarray(picture, np.uint8)


def _build_track(stored: NDArray[np.uint8] | _PictureFolder, rows: NDArray[np.int64], size: int) -> FaceTrack:
    import cv2

    padded = np.pad(stored[rows][..., ::-1], [(0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)], mode="edge")
    is_smaller = size < padded.shape[1]
    crops = [
        cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_CUBIC)
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


def even_rows(length: int, count: int) -> NDArray[np.int64]:
    """Return the middles of ``count`` equal spans of ``length`` rows: increasing, without repeats."""
    return np.unique(((np.arange(count) + 0.5) * length / count).astype(np.int64))


def _open_crops(path: Path) -> NDArray[np.uint8] | _PictureFolder:
    if path.is_dir() and len(pictures := _PictureFolder(path)):
        return pictures
    expected = f"expected uint8 (T, {SIDE}, {SIDE}, 3) crops by OpenFace"
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise FileUnreachable(f"face crops {path.name} no longer exist") from error
    except OSError as error:
        if error.strerror:
            raise FileUnreachable(f"cannot read face crops {path.name}: {error.strerror}") from error
        raise UnusableFaceCrops(f"{path.name} is not an npy file; {expected}") from error
    except _BROKEN_HEADERS as error:
        if is_lfs_pointer(path):
            raise UnusableFaceCrops(f"{path.name} {LFS_PROBLEM}; run {LFS_COMMAND}") from error
        raise UnusableFaceCrops(f"{path.name} is not a complete npy file of numbers; {expected}") from error
    if not isinstance(stored, np.ndarray):  # an npz archive
        stored.close()
        raise UnusableFaceCrops(f"{path.name} is an archive; {expected}")
    if stored.dtype != np.uint8 or stored.ndim != 4 or stored.shape[1:] != (SIDE, SIDE, 3):
        raise UnusableFaceCrops(f"{path.name} has type {stored.dtype} and shape {stored.shape}; {expected}")
    if len(stored) == 0:
        raise UnusableFaceCrops(f"{path.name} has no crops; {expected}")
    return stored
