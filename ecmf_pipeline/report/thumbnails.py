"""Small pictures of clips for their cards, within a fixed number of bytes."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.errors import ClipError
from ecmf_pipeline.media.clip_reader import ClipReader, span_of
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.report.config import Pictures

MAX_BYTES = 4_000_000
"""Largest size of all pictures in the page, encoded as base64."""
_SIZES = ((300, 200, 3), (1000, 160, 1), (10**9, 96, 1))
"""Number of clips up to which a size applies; longer side of a frame; number of frames."""
_QUALITY = 60
_BLURRED_SIDE = 10
"""Longer side, in pixels, to which a blurred frame is reduced: a face of half the height has about 4 x 4 pixels."""
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """Frames of a clip side by side: a data URI of a JPEG, and its size in pixels."""

    address: str
    width: int
    height: int


def make_thumbnails(
    clips: Sequence[Clip], *, root: Path, media: MediaConfig, pictures: Pictures
) -> dict[str, Thumbnail]:
    """Read the middle frame of each clip, or three frames of a small number of clips.

    Args:
        clips: The clips, the most important first. Clips whose file cannot be read have no picture.
        root: Folder to which the clips' paths are relative.
        media: Settings for reading videos.
        pictures: Whether to show or to blur the frames; ``off``: no pictures.

    Returns:
        Thumbnails by clip id; together they have at most `MAX_BYTES`.
    """
    shown = [clip for clip in clips if clip.has_video and clip.path and (root / clip.path).is_file()]
    if pictures == "off" or not shown:
        return {}
    side, frames = next((side, frames) for most, side, frames in _SIZES if len(shown) <= most)
    config = MediaConfig(frames=frames, max_side=max(2 * side, 256), reader=media.reader)
    readers = local()  # a reader keeps an open recording, which threads cannot share

    def make(clip: Clip) -> Thumbnail | None:
        if not hasattr(readers, "reader"):
            readers.reader = ClipReader(config)
        try:
            (sampling,) = readers.reader.samplings(root / clip.path, span_of(clip), [frames])
        except ClipError:
            return None
        return _encode([_shrink(frame, side, pictures) for frame in sampling.frames])

    thumbnails: dict[str, Thumbnail] = {}
    size = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(shown), _BATCH):
            batch = shown[start : start + _BATCH]
            for clip, made in zip(batch, pool.map(make, batch), strict=True):
                if made is None:
                    continue
                size += len(made.address)
                if size > MAX_BYTES:
                    return thumbnails
                thumbnails[clip.clip_id] = made
    return thumbnails


def describe_thumbnails(thumbnails: Mapping[str, Thumbnail], cards: int, pictures: Pictures) -> str:
    """Return a sentence on the pictures of the cards."""
    if pictures == "off":
        return "Pictures are off (report.thumbnails)."
    if not thumbnails:
        return "No clip has a picture: the clips have no video, or are not on this machine."
    blurred = "blurred " if pictures == "blur" else ""
    return f"{len(thumbnails):,} of {cards:,} cards have {blurred}pictures (all pictures: at most 4 MB)."


def _shrink(frame: NDArray[np.uint8], side: int, pictures: Pictures) -> NDArray[np.uint8]:
    import cv2

    factor = side / max(frame.shape[:2])
    size = max(1, round(frame.shape[1] * factor)), max(1, round(frame.shape[0] * factor))
    if pictures == "blur":
        coarse = tuple(max(1, round(length * _BLURRED_SIDE / side)) for length in size)
        frame = cv2.resize(frame, coarse, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def _encode(frames: Sequence[NDArray[np.uint8]]) -> Thumbnail:
    import cv2

    picture = np.concatenate(frames, axis=1)
    succeeded, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not succeeded:
        raise ValueError(f"OpenCV cannot encode a picture of shape {picture.shape} as JPEG")
    address = f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
    return Thumbnail(address, picture.shape[1], picture.shape[0])
