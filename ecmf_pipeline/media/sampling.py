"""The pictures of a clip that are sampled, in one decode.

Pictures are those that decord gives where its wheel exists, and PyAV's elsewhere. Both give the same pixels, which the
tests check, except where pictures are scaled down (they differ by 0.1 of 255 levels on average), and of a few codecs:
so whose pictures they are is part of the fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.config import Frames
from ecmf_pipeline.core.errors import NoVideoStream, TooManyPictures, UnreadableMedia
from ecmf_pipeline.media.config import MediaConfig, resolved_reader
from ecmf_pipeline.media.readers import Reader, open_video

_MOST_BYTES = 2**30
"""What the decoded pictures of one clip may take."""

_SAME_MOMENT = 2e-3
"""Seconds; times are kept as float32, and a minute has 1/500,000 of a second to lose."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Pictures sampled from a clip.

    Attributes:
        frames: RGB pictures, uint8 (T, H, W, 3).
        times: Seconds from the clip's start at which each is shown, (T,).
    """

    frames: NDArray[np.uint8]
    times: NDArray[np.float32]


def read_frames(path: Path, config: MediaConfig) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Read a clip's sampled pictures and when they are shown; see `read_samplings`.

    Returns:
        uint8 (T, H, W, 3) and seconds, (T,). T is less than asked for when the clip has fewer pictures.
    """
    (sampling,) = read_samplings(path, config, [config.frames])
    return sampling.frames, sampling.times


def read_samplings(path: Path, config: MediaConfig, counts: Sequence[Frames]) -> list[Sampling]:
    """Read the pictures of several samplings of a clip in one decode.

    Args:
        path: The file.
        config: How it is read.
        counts: For each sampling, how many pictures, or ``all``.

    Returns:
        One sampling for each; fewer pictures than asked for when the clip has fewer.

    Raises:
        NoVideoStream: When there are no pictures.
        UnreadableMedia: When they cannot be decoded, or the file is cut off.
        TooManyPictures: When those asked for take more than 1 GB decoded.
    """
    with open_video(path, max_side=config.max_side, reader=_reader(config)) as video:
        spans = video.spans()
        if len(spans) == 0:
            raise NoVideoStream("the video stream holds no picture")
        chosen = [np.arange(len(spans)) if count == "all" else sample_indices(spans, count) for count in counts]
        union = np.unique(np.concatenate(chosen))
        _refuse_too_many(len(union), video.size)
        pictures = video.pictures(union.tolist())
    samplings = []
    for indices in chosen:
        own = pictures if len(indices) == len(union) else pictures[np.searchsorted(union, indices)]
        samplings.append(Sampling(own, spans[indices, 0].astype(np.float32)))
    return samplings


def _refuse_too_many(count: int, size: tuple[int, int]) -> None:
    taken = 3 * size[0] * size[1] * count
    if taken > _MOST_BYTES:
        raise TooManyPictures(
            f"{count} pictures of {size[0]} x {size[1]} would take {taken / 2**30:.1f} GB of memory, and "
            f"{_MOST_BYTES / 2**30:.0f} GB is allowed: ask for fewer (frames) or smaller ones (media.max_side)"
        )


def read_frames_at(path: Path, config: MediaConfig, times: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Read a clip's pictures that are shown from given moments on, as `read_frames` told them, uint8 (T, H, W, 3).

    Args:
        path: The clip.
        config: The settings it was read with.
        times: Increasing seconds, (T,).

    Raises:
        NoVideoStream: When there are no pictures.
        UnreadableMedia: When they cannot be decoded, or are not shown at these moments.
    """
    with open_video(path, max_side=config.max_side, reader=_reader(config)) as video:
        starts = video.spans()[:, 0]
        if len(starts) == 0:
            raise NoVideoStream("the video stream holds no picture")
        indices = np.abs(starts[None, :] - times[:, None].astype(np.float64)).argmin(axis=1)
        if np.abs(starts[indices] - times).max(initial=0.0) > _SAME_MOMENT or len(np.unique(indices)) < len(times):
            raise UnreadableMedia("its pictures are shown at other moments than when they were read")
        return video.pictures(indices.tolist())


def sample_indices(spans: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Which pictures are on screen at the middles of ``count`` equal spans of time.

    Indices alone would be wrong where the frame rate varies: a second of many pictures is still one second.

    Args:
        spans: Start and end of every picture in seconds, (n, 2), in order of time.
        count: How many moments.

    Returns:
        Increasing indices without repeats, at most ``count``.
    """
    begin, end = spans[0, 0], max(spans[-1, 1], spans[-1, 0])
    # Half a millisecond later: a moment that falls on an edge must not depend on how a reader rounds its times.
    moments = begin + (np.arange(count) + 0.5) * (end - begin) / count + 5e-4
    shown = np.searchsorted(spans[:, 0], moments, side="right") - 1
    return np.unique(shown.clip(0, len(spans) - 1)).astype(np.int64)


def _reader(config: MediaConfig) -> Reader:
    """What opens a film: ``auto`` gives decord's pictures, so it is no choice where there is no decord."""
    return "auto" if config.reader == "auto" and resolved_reader(config) == "decord" else resolved_reader(config)
