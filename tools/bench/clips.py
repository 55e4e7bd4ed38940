"""Create clips for benchmarks of decoding and encoding, and run the extraction of `ecmf-pipe extract`."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from skimage import data
from skimage.transform import resize

from ecmf_pipeline.core.clips import Clip, ClipId, Modality, Split
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.run import extract, open_writers, plan_branch
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner import Engine
from ecmf_pipeline.settings.params import branch_settings
from ecmf_pipeline.store import FeatureStore

SIZES = {"480p": (854, 480), "720p": (1280, 720), "900p": (1600, 900), "1080p": (1920, 1080)}
"""Width and height in pixels."""

SECONDS, RATE, HERTZ = 4, 25, 16_000
"""Length in seconds, frames per second and samples per second; clips of the challenge last 4 s on average."""

_ENCODING = {
    "libx264": {"crf": "23", "preset": "veryfast"},
    "libx265": {"crf": "28", "preset": "veryfast", "x265-params": "log-level=none"},
    "mpeg4": {"b": "4M", "bf": "2"},
}
"""Options of the video encoders."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of this process and its children, and elapsed seconds."""

    cpu: float
    wall: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.cpu - other.cpu, self.wall - other.wall)

    def each(self, count: int) -> Cost:
        """Return the cost divided by ``count``."""
        return Cost(self.cpu / count, self.wall / count)


def cost_of(work: Callable[[], object]) -> Cost:
    """Measure the cost of ``work``, including child processes that have ended."""
    cpu, wall = _cpu_seconds(), time.perf_counter()
    work()
    return Cost(_cpu_seconds() - cpu, time.perf_counter() - wall)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def make_clips(folder: Path, size: str, count: int, *, distinct: int = 4, codec: str = "libx264") -> list[Clip]:
    """Write clips that show a photograph moving over another, with a tone. Only a few are encoded, the rest are copies.

    Args:
        folder: Output folder.
        size: A key of `SIZES`.
        count: Number of clips.
        distinct: Number of different clips.
        codec: FFmpeg's name of the video encoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"clip{number:04d}.mp4"
        if number < distinct:
            _write_clip(path, *SIZES[size], speed=number + 2, codec=codec)
        else:
            shutil.copyfile(folder / f"clip{number % distinct:04d}.mp4", path)
    return [_clip(folder / f"clip{number:04d}.mp4") for number in range(count)]


def _write_clip(path: Path, width: int, height: int, *, speed: int, codec: str) -> None:
    background = _scaled(data.coffee(), height, width)
    face = _scaled(data.astronaut()[:340, 60:400], round(0.7 * height), round(0.7 * height))
    grain = np.random.default_rng(speed).integers(-6, 7, (height + 64, width + 64, 1), np.int16)
    tone = np.sin(2 * np.pi * 220 * np.arange(SECONDS * HERTZ) / HERTZ).astype(np.float32)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=RATE, options=_ENCODING[codec])
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=HERTZ)
        sound.layout = "mono"
        for index in range(SECONDS * RATE):
            picture = np.roll(background, index, axis=1)
            left = (width // 8 + speed * index) % (width - face.shape[1])
            picture[height // 6 : height // 6 + face.shape[0], left : left + face.shape[1]] = face
            shift = 7 * index % 64
            noisy = picture + grain[shift : shift + height, shift : shift + width]
            frame = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        block = av.AudioFrame.from_ndarray(
            (tone * np.linspace(0.1, 0.5, len(tone), dtype=np.float32))[None], "fltp", "mono"
        )
        block.sample_rate, block.pts = HERTZ, 0
        container.mux(sound.encode(block))
        container.mux(sound.encode())


def _scaled(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    scaled: NDArray[np.uint8] = (255 * resize(picture, (height, width), anti_aliasing=True)).round().astype(np.uint8)
    return scaled


def _clip(path: Path) -> Clip:
    digest = sha256_file(path)
    return Clip(
        ClipId(path.stem),
        path=path.name,
        digest=digest,
        file_digest=digest,
        bytes=path.stat().st_size,
        duration=float(SECONDS),
        has_video=True,
        has_audio=True,
        split=Split.UNLABELED,
    )


def run_extraction(
    encoders: Mapping[Modality, BaseEncoderConfig],
    clips: Sequence[Clip],
    *,
    corpus: Path,
    stores: Path,
    media: MediaConfig,
    config: ExtractConfig,
    engine: Engine | None = None,
) -> None:
    """Extract features as `ecmf-pipe extract` does.

    Raises:
        RuntimeError: If a clip has no features afterwards.
    """
    faces = FaceConfig()
    settings = {modality: branch_settings(modality, encoder, media, faces) for modality, encoder in encoders.items()}
    with open_writers(settings, lambda modality: stores / f"{modality.value}.zarr") as writers:
        branches = [
            plan_branch(
                modality,
                clips,
                {},
                encoder=encoder,
                settings=settings[modality],
                root=stores / f"{modality.value}.zarr",
                quarantine_path=stores / f"{modality.value}.csv",
            )
            for modality, encoder in encoders.items()
        ]
        extract(
            branches,
            clips,
            {},
            writers=writers,
            corpus_root=corpus,
            media=media,
            faces=faces,
            config=config,
            engine=engine,
        )
    for modality in encoders:
        stored = len(FeatureStore.open(stores / f"{modality.value}.zarr"))
        if stored < len(clips):
            raise RuntimeError(f"{stored} of {len(clips)} clips have {modality.value} features")
