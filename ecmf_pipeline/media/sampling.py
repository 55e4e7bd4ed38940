"""Sample the frames of a clip in one decoding pass.

Pictures come from PyAV. With `media.reader: decord`, those of plain 8-bit H.264 come from decord, which returns the
same pixels there; the tests check this. In most other codecs its random access returns other pictures than asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.config import Frames
from ecmf_pipeline.core.errors import TruncatedMedia, UnreadableMedia
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.containers import open_container
from ecmf_pipeline.media.decord_reader import read_with_decord
from ecmf_pipeline.media.pyav_reader import ChoosePictures, Pictures, PyAvVideo
from ecmf_pipeline.media.timeline import Timeline


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
    """Read the frames of several samplings of a clip in one decoding pass.

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

    def choose_for_all(timeline: Timeline) -> NDArray[np.int64]:
        return np.unique(np.concatenate([_choose(timeline, count) for count in counts]))

    pictures = _read_pictures(path, config, choose_for_all)
    samplings = []
    for count in counts:
        indices = _choose(pictures.timeline, count)
        is_union = len(indices) == len(pictures.indices)
        frames = pictures.rgb if is_union else pictures.rgb[np.searchsorted(pictures.indices, indices)]
        samplings.append(Sampling(frames, pictures.timeline.starts[indices].astype(np.float32)))
    return samplings


def _choose(timeline: Timeline, count: Frames) -> NDArray[np.int64]:
    return np.arange(len(timeline)) if count == "all" else sample_indices(timeline, count)


def read_frames_at(path: Path, config: MediaConfig, times: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Read the frames of a clip at given times, as returned by `read_frames`, uint8 (T, H, W, 3).

    Args:
        path: The clip.
        config: The settings of the earlier read.
        times: Increasing seconds, (T,).

    Raises:
        NoVideoStream: If there are no frames.
        UnreadableMedia: If they cannot be decoded, or no frames have these times.
    """

    def choose_nearest(timeline: Timeline) -> NDArray[np.int64]:
        distances = np.abs(timeline.starts[None, :] - times[:, None].astype(np.float64))
        return np.unique(distances.argmin(axis=1)).astype(np.int64)

    pictures = _read_pictures(path, config, choose_nearest)
    starts = pictures.timeline.starts[pictures.indices]
    if len(starts) != len(times) or np.abs(starts - times).max(initial=0.0) > _TIME_TOLERANCE:
        raise UnreadableMedia("the times of the frames have changed since they were read")
    return pictures.rgb


def sample_indices(timeline: Timeline, count: int) -> NDArray[np.int64]:
    """Return the frames that are shown at the middles of ``count`` equal spans of time.

    Equidistant indices would be wrong with a variable frame rate: a second with many frames is still one second.

    Args:
        timeline: When the frames are shown.
        count: Number of spans.

    Returns:
        Increasing indices without repeats, at most ``count``.
    """
    begin, end = timeline.starts[0], timeline.end
    # Add half a millisecond: the frame at an edge must not depend on the rounding of times by the container.
    moments = begin + (np.arange(count) + 0.5) * (end - begin) / count + 5e-4
    shown = np.searchsorted(timeline.starts, moments, side="right") - 1
    return np.unique(shown.clip(0, len(timeline) - 1)).astype(np.int64)
