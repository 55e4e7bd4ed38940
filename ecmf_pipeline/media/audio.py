"""Read the audio of a clip as mono samples at 16 kHz."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import NoAudioStream, SilentAudio, UnreadableMedia
from ecmf_pipeline.media.config import SAMPLE_RATE, MediaConfig
from ecmf_pipeline.media.containers import open_container


def read_audio(path: Path, config: MediaConfig) -> NDArray[np.float32]:
    """Read the audio of a clip as mono 16 kHz, float32 (n,) in [-1, 1].

    Args:
        path: The file.
        config: How to read it.

    Raises:
        NoAudioStream: If there is none.
        SilentAudio: If all samples are zero.
        UnreadableMedia: If it cannot be decoded, or the file is truncated.
    """
    with open_container(path) as container:
        if not container.streams.audio:
            raise NoAudioStream("the file has no audio stream")
        stream: Any = container.streams.audio[0]
        blocks = list(_resample(container.decode(stream)))
        declared = float(stream.duration * stream.time_base) if stream.duration else 0.0
    samples = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
    if len(samples) == 0:
        raise NoAudioStream("the audio stream has no samples")
    if len(samples) / SAMPLE_RATE < config.least_readable * declared:
        seconds = len(samples) / SAMPLE_RATE
        raise UnreadableMedia(f"truncated audio: {seconds:.2f} of {declared:.2f} declared seconds")
    if not samples.any():
        raise SilentAudio(f"all samples in {len(samples) / SAMPLE_RATE:.2f} s of audio are zero")
    return samples.astype(np.float32, copy=False)


def _resample(frames: Iterator[Any]) -> Iterator[NDArray[np.float32]]:
    """Yield mono blocks at 16 kHz, (n,). A stream may change its rate or layout: each run gets its own resampler."""
    import av

    for _, run in groupby(frames, key=lambda frame: (frame.sample_rate, frame.layout.name, frame.format.name)):
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        for frame in (*run, None):  # None flushes the resampler
            for block in resampler.resample(frame):
                yield block.to_ndarray()[0]
