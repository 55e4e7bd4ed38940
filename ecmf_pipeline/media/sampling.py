"""Sample the frames of a clip in one decoding pass.

Pictures come from PyAV. With `media.reader: decord`, those of plain 8-bit H.264 come from decord, which returns the
same pixels there; the tests check this. In most other codecs its random access returns other pictures than asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.config import Frames
from ecmf_pipeline.core.errors import TruncatedMedia, UnreadableMedia
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.containers import open_container
from ecmf_pipeline.media.decord_reader import read_with_decord
from ecmf_pipeline.media.pyav_reader import ChoosePictures, Pictures, PyAvVideo
from ecmf_pipeline.media.timeline import WHOLE, Span, Timeline


def _read_pictures(path: Path, config: MediaConfig, choose: ChoosePictures) -> Pictures:
    """Read the chosen pictures of the video stream that players show.

    Raises:
        NoVideoStream: If there is none, or it has no pictures.
        TruncatedMedia: If less of the file can be read than ``config.least_readable`` allows.
        UnreadableMedia: If it cannot be decoded.
        TooManyPictures: If the chosen pictures would take more than 1 GB.
    """
    with open_container(path) as container:
        video = PyAvVideo(path, container, config.max_side)
        if video.extent.share < config.least_readable:
            raise TruncatedMedia(f"truncated video: {video.extent}", limit=video.extent.share)
        if config.reader == "decord" and video.matches_decord:
            return read_with_decord(path, video, choose)
        return video.sample(choose)


_ROUNDING = 5e-4
"""Half a millisecond: the frame at an edge must not depend on the rounding of times by the container."""

_TIME_TOLERANCE = 2e-3
"""Tolerance of frame times in seconds. Times are stored as float32, with an error of 1/500,000 s at one minute."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Frames sampled from a clip.

    Attributes:
        frames: RGB frames, uint8 (T, H, W, 3).
        times: Time of each frame in seconds from the start of the clip, (T,).
    """

    frames: NDArray[np.uint8]
    times: NDArray[np.float32]


def read_frames(path: Path, config: MediaConfig) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Read the sampled frames of a clip and their times; see `read_samplings`.

    Returns:
        uint8 (T, H, W, 3) and seconds, (T,). T is smaller than ``config.frames`` if the clip has fewer frames.
    """
    (sampling,) = read_samplings(path, config, [config.frames])
    return sampling.frames, sampling.times


def read_samplings(path: Path, config: MediaConfig, counts: Sequence[Frames]) -> list[Sampling]:
    """Read the frames of several samplings of a clip that is a file in one decoding pass.

    Args:
        path: The file.
        config: How to read it.
        counts: For each sampling the number of frames, or ``all``.

    Returns:
        One sampling for each count, with fewer frames if the clip has fewer.

    Raises:
        NoVideoStream: If there are no frames.
        UnreadableMedia: If they cannot be decoded, or the file is truncated.
        TooManyPictures: If the decoded frames would take more than 1 GB.
    """
    return sample_pictures(partial(_read_pictures, path, config), counts)


def sample_pictures(
    read: Callable[[ChoosePictures], Pictures], counts: Sequence[Frames], span: Span = WHOLE
) -> list[Sampling]:
    """Sample a span of a film as `read_samplings` does; ``read`` reads the chosen pictures of the film."""

    def choose_for_all(timeline: Timeline) -> NDArray[np.int64]:
        return np.unique(np.concatenate([_choose(timeline, count, span) for count in counts]))

    pictures = read(choose_for_all)
    samplings = []
    for count in counts:
        indices = _choose(pictures.timeline, count, span)
        is_union = len(indices) == len(pictures.indices)
        frames = pictures.rgb if is_union else pictures.rgb[np.searchsorted(pictures.indices, indices)]
        times = pictures.timeline.starts[indices] - span.start
        samplings.append(Sampling(frames, times.astype(np.float32)))
    return samplings


def _choose(timeline: Timeline, count: Frames, span: Span) -> NDArray[np.int64]:
    if count != "all":
        return sample_indices(timeline, count, span)
    if span.is_whole:
        return np.arange(len(timeline))
    begin, end = span.within(timeline)
    first, last = _shown_at(timeline, np.array([begin + _ROUNDING, end - _ROUNDING]))
    return np.arange(first, last + 1)


def read_frames_at(path: Path, config: MediaConfig, times: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Read the frames of a clip that is a file at given times, as returned by `read_frames`, uint8 (T, H, W, 3).

    Args:
        path: The file.
        config: The settings of the earlier read.
        times: Increasing seconds, (T,).

    Raises:
        NoVideoStream: If there are no frames.
        UnreadableMedia: If they cannot be decoded, or no frames have these times.
    """
    return pictures_at(partial(_read_pictures, path, config), times)


def pictures_at(
    read: Callable[[ChoosePictures], Pictures], times: NDArray[np.float32], span: Span = WHOLE
) -> NDArray[np.uint8]:
    """Read pictures of a span of a film as `read_frames_at` does; ``read`` reads the chosen pictures of the film."""
    shown_at = times.astype(np.float64) + span.start

    def choose_nearest(timeline: Timeline) -> NDArray[np.int64]:
        after = np.searchsorted(timeline.starts, shown_at).clip(1, max(len(timeline) - 1, 1))
        near = np.stack([after - 1, after.clip(0, len(timeline) - 1)])
        distances = np.abs(timeline.starts[near] - shown_at)
        return np.unique(np.where(distances[0] <= distances[1], near[0], near[1])).astype(np.int64)

    pictures = read(choose_nearest)
    starts = pictures.timeline.starts[pictures.indices] - span.start
    if len(starts) != len(times) or np.abs(starts - times).max(initial=0.0) > _TIME_TOLERANCE:
        raise UnreadableMedia("the times of the frames have changed since they were read")
    return pictures.rgb


def sample_indices(timeline: Timeline, count: int, span: Span = WHOLE) -> NDArray[np.int64]:
    """Return the frames that are shown at the middles of ``count`` equal parts of a span of time.

    Equidistant indices would be wrong with a variable frame rate: a second with many frames is still one second.

    Args:
        timeline: When the frames are shown.
        count: Number of parts.
        span: The span.

    Returns:
        Increasing indices without repeats, at most ``count``.

    Raises:
        UnreadableMedia: If no frame is shown in the span.
    """
    begin, end = span.within(timeline)
    return np.unique(_shown_at(timeline, begin + (np.arange(count) + 0.5) * (end - begin) / count + _ROUNDING))


def _shown_at(timeline: Timeline, moments: NDArray[np.float64]) -> NDArray[np.int64]:
    shown = np.searchsorted(timeline.starts, moments, side="right") - 1
    return shown.clip(0, len(timeline) - 1).astype(np.int64)
