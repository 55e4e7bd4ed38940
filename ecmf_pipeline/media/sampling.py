"""Sample the pictures of a clip in one decode, and read its sound.

Pictures are those that decord gives where its wheel exists, and PyAV's elsewhere. Both give the same pixels, which the
tests check, except where pictures are scaled down (they differ by 0.1 of 255 levels on average), and of a few codecs:
so whose pictures they are is part of the fingerprint.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.config import Frames
from ecmf_pipeline.core.errors import NoAudioStream, NoVideoStream, SilentAudio, TooManyPictures, UnreadableMedia
from ecmf_pipeline.media.config import SAMPLE_RATE, MediaConfig
from ecmf_pipeline.media.containers import LEAST_READABLE, open_container, resolved_reader
from ecmf_pipeline.media.pyav_reader import ROUNDING, PyAvVideo


class VideoReader(Protocol):
    """A file's pictures, by index."""

    size: tuple[int, int]
    """Width and height of the pictures as they are decoded, in pixels."""

    @property
    def spans(self) -> NDArray[np.float64]:
        """Start and end of every picture in seconds, in order of time, (n, 2)."""
        ...

    def pictures(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """RGB pictures at increasing indices, (k, H, W, 3)."""
        ...


@contextmanager
def open_video(path: Path, config: MediaConfig) -> Iterator[VideoReader]:
    """Open a file's first real video stream for the length of a block.

    Raises:
        NoVideoStream: When there is none, or no picture in it.
        UnreadableMedia: When the file cannot be opened or is cut off.
    """
    with open_container(path) as container:
        film = PyAvVideo(path, container, config.max_side)
        video = _pick(path, film, config)
        spans = video.spans
        readable = float(spans[-1, 1] - spans[0, 0]) if len(spans) else 0.0
        if readable < LEAST_READABLE * film.seconds:
            raise UnreadableMedia(f"video is cut off: {readable:.2f} of {film.seconds:.2f} declared seconds are there")
        if len(spans) == 0:
            raise NoVideoStream("the video stream holds no picture")
        yield video


def _pick(path: Path, film: PyAvVideo, config: MediaConfig) -> VideoReader:
    if resolved_reader(config) == "pyav" or (config.reader == "auto" and film.is_plain):
        return film
    if not film.is_only or not film.orientation.is_upright:
        return film
    try:
        video = DecordVideo(path, film)
    except UnreadableMedia:  # PyAV has opened it: whether it can go on, too, it says itself
        return film
    # A clip that was cut without encoding it again begins with pictures that are decoded but not shown. decord
    # counts them and gives others for them: PyAV says which they are.
    return film if len(video.spans) and video.spans[0, 0] < -ROUNDING else video


class DecordVideo:
    """Pictures by decord, single-threaded: clips are short, and the cores have other clips to read.

    Args:
        path: The file.
        film: The same in PyAV: its pictures are as large, and they count where decord's FFmpeg complains.
    """

    def __init__(self, path: Path, film: PyAvVideo) -> None:
        import decord

        self._errors = (decord.DECORDError, RuntimeError)
        self._film = film
        self.size = film.size
        width, height = (-1, -1) if film.size == film.stored_size else film.size
        try:
            with _native_stderr() as said:
                # Absolute, or FFmpeg takes a colon in a name for a protocol.
                self._reader = decord.VideoReader(str(path.absolute()), num_threads=1, width=width, height=height)
        except self._errors as error:
            raise UnreadableMedia(f"decord: {_first_line(str(error))}") from error
        self._complaint = said[0]

    @cached_property
    def spans(self) -> NDArray[np.float64]:
        """Start and end of every picture in seconds, (n, 2)."""
        count = len(self._reader)
        return np.asarray(self._reader.get_frame_timestamp(range(count)), np.float64).reshape(count, 2)

    def pictures(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """RGB pictures at increasing indices, (k, H, W, 3)."""
        with _native_stderr() as said:
            try:
                pictures: NDArray[np.uint8] = self._reader.get_batch(list(indices)).asnumpy()
            except self._errors as error:
                self._complaint = self._complaint or str(error)
        complaint = self._complaint or said[0]
        if not complaint:
            return pictures
        if len(self._film.spans) != len(self._reader):
            raise UnreadableMedia(f"the pictures are damaged: {_first_line(complaint)}")
        return self._film.pictures(indices)


@contextmanager
def _native_stderr() -> Iterator[list[str]]:
    """Collect what native code writes to file descriptor 2, as one text that is there once the block is left."""
    said: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            heard.seek(0)
            said.append(heard.read().decode(errors="replace").strip())


def _first_line(text: str) -> str:
    """What decord says, without the time and the place in its source: the same film must get the same message."""
    lines = [re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", line) for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else "decord gives no reason"


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
    with open_video(path, config) as video:
        spans = video.spans
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
    with open_video(path, config) as video:
        starts = video.spans[:, 0]
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


def read_audio(path: Path) -> NDArray[np.float32]:
    """Read a clip's sound as mono 16 kHz, float32 (n,) in [-1, 1].

    Raises:
        NoAudioStream: When there is none.
        SilentAudio: When there is nothing but zeros.
        UnreadableMedia: When it cannot be decoded, or the file is cut off.
    """
    with open_container(path) as container:
        if not container.streams.audio:
            raise NoAudioStream("the file has no audio stream")
        stream: Any = container.streams.audio[0]
        blocks = list(_resampled(container.decode(stream)))
        declared = float(stream.duration * stream.time_base) if stream.duration else 0.0
    samples = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
    if len(samples) == 0:
        raise NoAudioStream("the audio stream holds no sound")
    if len(samples) / SAMPLE_RATE < LEAST_READABLE * declared:
        raise UnreadableMedia(f"audio is cut off: {len(samples) / SAMPLE_RATE:.2f} of {declared:.2f} seconds are there")
    if not samples.any():
        raise SilentAudio(f"all {len(samples) / SAMPLE_RATE:.2f} seconds of sound are zero")
    return samples.astype(np.float32, copy=False)


def _resampled(frames: Iterator[Any]) -> Iterator[NDArray[np.float32]]:
    """Mono blocks at 16 kHz, (n,). A stream may change its rate or layout in the middle: each run has its resampler."""
    import av

    for _, run in groupby(frames, key=lambda frame: (frame.sample_rate, frame.layout.name, frame.format.name)):
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        for frame in (*run, None):  # None makes the resampler give out what it still holds
            for block in resampler.resample(frame):
                yield block.to_ndarray()[0]
