"""Sample the frames of a clip in one decoding pass.

Pictures come from decord if it is installed, otherwise from PyAV. Both return the same pixels, which the tests check,
with two exceptions: frames that are scaled down (they differ by 0.1 of 255 levels on average), and a few codecs. The
reader is therefore part of the fingerprint.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.config import Frames
from ecmf_pipeline.core.errors import NoVideoStream, TooManyPictures, UnreadableMedia
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.containers import open_container, resolve_reader
from ecmf_pipeline.media.pyav_reader import TIME_ROUNDING, PyAvVideo


class VideoReader(Protocol):
    """The frames of a file, by index."""

    size: tuple[int, int]
    """Width and height of the decoded frames in pixels."""

    @property
    def spans(self) -> NDArray[np.float64]:
        """Start and end of every frame in seconds, in order of time, (n, 2)."""
        ...

    def pictures(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return RGB frames at increasing indices, (k, H, W, 3)."""
        ...


@contextmanager
def open_video(path: Path, config: MediaConfig) -> Iterator[VideoReader]:
    """Open the first video stream of a file as a context manager.

    Raises:
        NoVideoStream: If there is none, or it has no frames.
        UnreadableMedia: If the file cannot be opened or is truncated.
    """
    with open_container(path) as container:
        pyav_video = PyAvVideo(path, container, config.max_side)
        video = _choose_reader(path, pyav_video, config)
        spans = video.spans
        readable = float(spans[-1, 1] - spans[0, 0]) if len(spans) else 0.0
        if readable < config.least_readable * pyav_video.seconds:
            raise UnreadableMedia(f"truncated video: {readable:.2f} of {pyav_video.seconds:.2f} declared seconds")
        if len(spans) == 0:
            raise NoVideoStream("the video stream has no frames")
        yield video


def _choose_reader(path: Path, pyav_video: PyAvVideo, config: MediaConfig) -> VideoReader:
    if resolve_reader(config) == "pyav" or (config.reader == "auto" and pyav_video.matches_decord):
        return pyav_video
    if not pyav_video.is_only_stream or not pyav_video.orientation.is_upright:
        return pyav_video
    try:
        video = DecordVideo(path, pyav_video)
    except UnreadableMedia:  # PyAV may still read it, or raise a better error
        return pyav_video
    # A clip that was cut without re-encoding starts with frames that are decoded but not shown. decord counts
    # them and returns other frames for them; PyAV identifies them.
    return pyav_video if len(video.spans) and video.spans[0, 0] < -TIME_ROUNDING else video


class DecordVideo:
    """Pictures read by decord with one thread: clips are short, and other cores read other clips.

    Args:
        path: The file.
        pyav_video: The same file in PyAV. It gives the size of the frames, and is used if decord reports errors.
    """

    def __init__(self, path: Path, pyav_video: PyAvVideo) -> None:
        import decord

        self._errors = (decord.DECORDError, RuntimeError)
        self._pyav_video = pyav_video
        self.size = pyav_video.size
        width, height = (-1, -1) if pyav_video.size == pyav_video.stored_size else pyav_video.size
        try:
            with _captured_native_stderr() as captured:
                # An absolute path prevents FFmpeg from parsing a colon in a name as a protocol.
                self._reader = decord.VideoReader(str(path.absolute()), num_threads=1, width=width, height=height)
        except self._errors as error:
            raise UnreadableMedia(f"decord: {_first_line(str(error))}") from error
        self._decoder_error = captured[0]

    @cached_property
    def spans(self) -> NDArray[np.float64]:
        """Start and end of every frame in seconds, (n, 2)."""
        count = len(self._reader)
        return np.asarray(self._reader.get_frame_timestamp(range(count)), np.float64).reshape(count, 2)

    def pictures(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return RGB frames at increasing indices, (k, H, W, 3)."""
        with _captured_native_stderr() as captured:
            try:
                pictures: NDArray[np.uint8] = self._reader.get_batch(list(indices)).asnumpy()
            except self._errors as error:
                self._decoder_error = self._decoder_error or str(error)
        decoder_error = self._decoder_error or captured[0]
        if not decoder_error:
            return pictures
        if len(self._pyav_video.spans) != len(self._reader):
            raise UnreadableMedia(f"damaged frames: {_first_line(decoder_error)}")
        return self._pyav_video.pictures(indices)


@contextmanager
def _captured_native_stderr() -> Iterator[list[str]]:
    """Capture the output of native code to file descriptor 2; the list holds it as one text after the block."""
    captured: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield captured
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            captured.append(file.read().decode(errors="replace").strip())


def _first_line(text: str) -> str:
    """Return the first line of decord's message without time and source position, which differ between runs."""
    lines = [re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", line) for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else "decord gave no reason"


_MAX_DECODED_BYTES = 2**30
"""Maximum size of the decoded frames of one clip."""

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
    with open_video(path, config) as video:
        spans = video.spans
        chosen = [np.arange(len(spans)) if count == "all" else sample_indices(spans, count) for count in counts]
        union = np.unique(np.concatenate(chosen))
        _check_memory(len(union), video.size)
        pictures = video.pictures(union.tolist())
    samplings = []
    for indices in chosen:
        frames = pictures if len(indices) == len(union) else pictures[np.searchsorted(union, indices)]
        samplings.append(Sampling(frames, spans[indices, 0].astype(np.float32)))
    return samplings


def _check_memory(count: int, size: tuple[int, int]) -> None:
    needed = 3 * size[0] * size[1] * count
    if needed > _MAX_DECODED_BYTES:
        raise TooManyPictures(
            f"{count} frames of {size[0]} x {size[1]} need {needed / 2**30:.1f} GB, the limit is "
            f"{_MAX_DECODED_BYTES / 2**30:.0f} GB: reduce frames or media.max_side"
        )


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
    with open_video(path, config) as video:
        starts = video.spans[:, 0]
        indices = np.abs(starts[None, :] - times[:, None].astype(np.float64)).argmin(axis=1)
        if np.abs(starts[indices] - times).max(initial=0.0) > _TIME_TOLERANCE or len(np.unique(indices)) < len(times):
            raise UnreadableMedia("the times of the frames have changed since they were read")
        return video.pictures(indices.tolist())


def sample_indices(spans: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the frames that are shown at the middles of ``count`` equal spans of time.

    Equidistant indices would be wrong with a variable frame rate: a second with many frames is still one second.

    Args:
        spans: Start and end of every frame in seconds, (n, 2), in order of time.
        count: Number of spans.

    Returns:
        Increasing indices without repeats, at most ``count``.
    """
    begin, end = spans[0, 0], max(spans[-1, 1], spans[-1, 0])
    # Add half a millisecond: the frame at an edge must not depend on the rounding of times by the reader.
    moments = begin + (np.arange(count) + 0.5) * (end - begin) / count + 5e-4
    shown = np.searchsorted(spans[:, 0], moments, side="right") - 1
    return np.unique(shown.clip(0, len(spans) - 1)).astype(np.int64)
