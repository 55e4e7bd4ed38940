"""Measure whether memory stays constant while thousands of clips are opened as a worker opens them.

::

    python -m tools.bench.memory             # all readers, each in a new process
    python -m tools.bench.memory decord 500  # one reader, 500 clips
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
from skimage import data

from ecmf_pipeline.core.clips import Clip, ClipId, Modality
from ecmf_pipeline.encoders.config import EfficientNetConfig, EgemapsConfig, MiniXceptionConfig
from ecmf_pipeline.extraction.step import BranchEncoder, ClipToExtract, ExtractOpener, ExtractStepFactory
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner.machine import memory_environment

READERS = ("auto", "decord", "pyav")
OPENINGS = 2000
WARM_UP = 200
_SIZES = ((320, 240), (480, 360), (640, 480), (360, 480), (854, 480), (426, 240))


def memory_growth(reader: str, openings: int = OPENINGS) -> tuple[float, float]:
    """Open clips in a new process, with faces, audio and the preprocessing of the default encoders.

    Args:
        reader: Value of ``media.reader``.
        openings: Number of clips to open; the first 200 are the warm-up.

    Returns:
        Resident memory after the warm-up and at the end, in MB.
    """
    words = [sys.executable, "-m", "tools.bench.memory", "--measure", reader, str(openings)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | memory_environment())
    warm, end = json.loads(done.stdout.splitlines()[-1])
    return warm, end


def main() -> None:
    """Print a line for each reader; with ``--measure``, run the measurement in this process."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.memory", description="Measure the growth of memory.")
    parser.add_argument("reader", nargs="?", choices=READERS, help="the reader; all by default")
    parser.add_argument("openings", nargs="?", type=int, default=OPENINGS, help="number of clips to open")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(_measure(options.reader, options.openings)) + "\n")
        return
    for reader in [options.reader] if options.reader else READERS:
        warm, end = memory_growth(reader, options.openings)
        sys.stdout.write(f"{reader}: {warm:.0f} MB after {WARM_UP} clips, {end:.0f} MB after {options.openings} clips ")
        sys.stdout.write(f"({end - warm:+.1f} MB)\n")
        sys.stdout.flush()


def _measure(reader: str, openings: int) -> tuple[float, float]:
    media, warm = MediaConfig(reader=reader), 0.0
    encoders = {
        Modality.GLOBAL: EfficientNetConfig(frames=16),
        # few frames: a leak grows per call, and the landmarker takes most of the time
        Modality.FACE: MiniXceptionConfig(frames=4),
        Modality.AUDIO: EgemapsConfig(),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = [_write(folder / f"{number}.mp4", *size, seconds=1 + number / 4) for number, size in enumerate(_SIZES)]
        branches = {modality: BranchEncoder(modality, encoder, {}, folder) for modality, encoder in encoders.items()}
        opener = ExtractOpener(ExtractStepFactory(branches, folder, media, FaceConfig(), "cpu"))
        items = [ClipToExtract(clip, dict.fromkeys(encoders, clip.digest)) for clip in clips]
        for number in range(openings):
            opened = opener.open(items[number % len(items)])
            if errors := [view for view in opened.values() if isinstance(view, Exception)]:
                raise errors[0]
            if number + 1 == WARM_UP:
                warm = _resident()
            if (number + 1) % 200 == 0:
                sys.stderr.write(f"{reader}: {number + 1} clips, {_resident():.0f} MB\n")
        end = _resident()
        opener.close()
    return warm, end


def _resident() -> float:
    """Return the resident memory of this process in MB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def _write(path: Path, width: int, height: int, *, seconds: float) -> Clip:
    """Write a clip of a moving face, with a tone."""
    face = data.astronaut()[:240, 100:340]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=16000)
        sound.layout = "mono"
        for index in range(round(25 * seconds)):
            picture = np.full((height, width, 3), 90, np.uint8)
            left = 20 + index
            picture[:240, left : left + 240] = face[:height, : max(0, min(240, width - left))]
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        count = round(16000 * seconds)
        tone = np.sin(2 * np.pi * 200 * np.arange(count) / 16000).astype(np.float32) / 4
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return Clip(ClipId(path.stem), path.name, path.stem, has_video=True, has_audio=True)


if __name__ == "__main__":
    main()
