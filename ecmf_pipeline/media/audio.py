"""Read the sound of a file: mono, 16 kHz, whatever rate and channels it has, by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import NoAudioStream, SilentAudio, UnreadableMedia
from ecmf_pipeline.media.config import SAMPLE_RATE
from ecmf_pipeline.media.containers import LEAST_READABLE, open_container


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
