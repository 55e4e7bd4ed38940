"""Create a small corpus of valid clips and three that must be quarantined or skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

RATE = 16_000
SIZE = (96, 64)
CUT = "cut"
"""Name of the truncated clip; its header is complete, only decoding fails."""


def write_corpus(folder: Path, clips: int, rng: np.random.Generator) -> None:
    """Write clips of about half a second, each with different frames and audio.

    Three more clips are special: one is truncated, one is muted (its samples are all zero) and one has no audio.

    Args:
        folder: Output folder; it is created.
        clips: Number of valid clips.
        rng: Random generator of their content.
    """
    folder.mkdir(parents=True)
    for number in range(clips):
        _write(folder / f"clip{number:03d}.mp4", rng, _sound(rng))
    _write(folder / "muted.mp4", rng, np.zeros(RATE // 2, np.float32))
    _write(folder / "wordless.mp4", rng, None)
    whole = folder / "whole.mp4"
    _write(whole, rng, np.tile(_sound(rng), 4))
    (folder / f"{CUT}.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()


def _sound(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a synthetic voice: modulated harmonics and noise."""
    time = np.arange(int(RATE * rng.uniform(0.4, 0.8))) / RATE
    pitch = rng.uniform(90, 300)
    tone = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic for harmonic in range(1, 6))
    swell = np.sin(2 * np.pi * rng.uniform(1, 4) * time) ** 2
    return np.asarray(0.2 * tone * swell + 0.01 * rng.standard_normal(len(time)), np.float32)


def _write(path: Path, rng: np.random.Generator, sound: NDArray[np.float32] | None) -> None:
    # A truncated file can be opened only if the header comes first.
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        audio: Any = None
        if sound is not None:
            audio = container.add_stream("aac", rate=RATE)
            audio.layout = "mono"
        start, end = rng.integers(0, 256, (2, 3))
        for share in np.linspace(0, 1, 12):
            picture = np.empty((*SIZE[::-1], 3), np.uint8)
            picture[:] = start + share * (end - start)
            picture[:, : int(share * SIZE[0])] = 255 - picture[0, 0]
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
