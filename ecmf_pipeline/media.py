"""Open a clip once: sampled frames and mono 16 kHz audio.

Pictures are read by decord where its wheel exists and by PyAV elsewhere. Both give the same pixels, which the tests
check, except where pictures are scaled down (they differ by 0.1 of 255 levels on average): so the reader is part of the
fingerprint. Sound is read by PyAV.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecmf_pipeline.config import Config
from ecmf_pipeline.errors import NoAudioStream, NoVideoStream, SilentAudio, UnreadableMedia

SAMPLE_RATE = 16_000
"""Hertz; what speech models are trained on."""


class MediaConfig(Config):
    """How clips are sampled.

    Attributes:
        frames: Pictures a clip, uniform in time: the middles of as many equal spans.
        max_side: Longer pictures are scaled down to this many pixels while they are decoded.
        reader: ``decord``, ``pyav``, or ``auto``: decord where it is installed.
    """

    frames: int = Field(16, gt=0)
    max_side: int = Field(1280, gt=63)
    reader: Literal["auto", "decord", "pyav"] = "auto"


_SAME_MOMENT = 2e-3
"""Seconds; times are kept as float32, and a minute has 1/500,000 of a second to lose."""


@dataclass(frozen=True, slots=True)
class Media:
    """What was read of one clip.

    Attributes:
        frames: RGB pictures, uint8 (T, H, W, 3); None when they were not asked for.
        times: Seconds from the clip's start at which each picture is shown, (T,).
        audio: Mono samples at 16 kHz, float32 (n,); None when they were not asked for.
    """

    frames: NDArray[np.uint8] | None
    times: NDArray[np.float32]
    audio: NDArray[np.float32] | None


def read_frames(path: Path, config: MediaConfig) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Read a clip's sampled pictures and when they are shown.

    Returns:
        uint8 (T, H, W, 3) and seconds, (T,). T is less than asked for when the clip has fewer pictures.

    Raises:
        NoVideoStream: When there are no pictures.
        UnreadableMedia: When they cannot be decoded, or the file is cut off.
    """
    from ecmf_pipeline.video_readers import open_video  # decord and PyAV load only where pictures are read

    reader = open_video(path, max_side=config.max_side, reader=resolved_reader(config))
    spans = reader.spans()
    if len(spans) == 0:
        raise NoVideoStream("the video stream holds no picture")
    indices = sample_indices(spans, config.frames)
    return reader.pictures(indices.tolist()), spans[indices, 0].astype(np.float32)


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
    from ecmf_pipeline.video_readers import open_video

    reader = open_video(path, max_side=config.max_side, reader=resolved_reader(config))
    starts = reader.spans()[:, 0]
    if len(starts) == 0:
        raise NoVideoStream("the video stream holds no picture")
    indices = np.abs(starts[None, :] - times[:, None].astype(np.float64)).argmin(axis=1)
    if np.abs(starts[indices] - times).max(initial=0.0) > _SAME_MOMENT or len(np.unique(indices)) < len(times):
        raise UnreadableMedia("its pictures are shown at other moments than when they were read")
    return reader.pictures(indices.tolist())


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
    from ecmf_pipeline.containers import open_container
    from ecmf_pipeline.video_readers import LEAST_READABLE

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


def resolved_reader(config: MediaConfig) -> Literal["decord", "pyav"]:
    """The reader in use on this machine."""
    if config.reader == "auto":
        return "decord" if importlib.util.find_spec("decord") else "pyav"
    return config.reader


def _resampled(frames: Iterator[Any]) -> Iterator[NDArray[np.float32]]:
    """Mono blocks at 16 kHz, (n,). A stream may change its rate or layout in the middle: each run has its resampler."""
    from itertools import groupby

    import av

    for _, run in groupby(frames, key=lambda frame: (frame.sample_rate, frame.layout.name, frame.format.name)):
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        for frame in (*run, None):  # None makes the resampler give out what it still holds
            for block in resampler.resample(frame):
                yield block.to_ndarray()[0]
