"""Generated clips and views, and the workers that open them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, ClipId, Modality
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.encoders.base import Preparer
from ecmf_pipeline.encoders.registry import build_preparer
from ecmf_pipeline.extraction.step import (
    ClipToExtract,
    ExtractStepFactory,
    OpenedClip,
    OpenedView,
)
from ecmf_pipeline.faces.detector import FaceTrack
from ecmf_pipeline.media.config import SAMPLE_RATE
from ecmf_pipeline.runner.machine import hide_gpus
from ecmf_pipeline.runner.step import Opener
from tools.gpu_check.bench import FULL, N_SOURCES, Bench, Sizes

RATE = 25
"""Frames per second of generated clips."""
Samples = NDArray[np.float32]


def generate_clip(folder: Path, number: int, sizes: Sizes, *, writes: bool) -> Clip:
    """Return a clip of moving pictures with sound; without a file if ``writes`` is false."""
    clip = Clip(
        ClipId(f"source{number}"),
        digest=f"{number:064x}",
        duration=sizes.clip_seconds,
        has_video=True,
        has_audio=True,
    )
    if not writes:
        return clip
    path = folder / f"source{number}.mp4"
    write_clip(path, number, sizes)
    digest = sha256_file(path)
    return replace(clip, path=path.name, digest=digest, file_digest=digest, bytes=path.stat().st_size)


def write_clip(path: Path, number: int, sizes: Sizes) -> None:
    """Write one clip as H.264 and AAC."""
    import av

    picture, sound = make_pictures(number, 1, sizes)[0], make_sound(number, sizes)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        video.height, video.width, video.pix_fmt = *picture.shape[:2], "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE)
        audio.layout = "mono"
        for index in range(round(sizes.clip_seconds * RATE)):
            moved = np.ascontiguousarray(np.roll(picture, 3 * index, axis=1))
            container.mux(video.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(video.encode())
        block = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
        block.sample_rate, block.pts = SAMPLE_RATE, 0
        container.mux(audio.encode(block))
        container.mux(audio.encode())


def make_pictures(number: int, frames: int, sizes: Sizes, *, square: bool = False) -> NDArray[np.uint8]:
    """Return pictures of smooth colours, which differ strongly between numbers, uint8 (T, H, W, 3)."""
    width = sizes.height if square else sizes.height * 16 // 9 // 2 * 2
    colours = torch.from_numpy(np.random.default_rng(number).random((frames, 3, 6, 8)))
    smooth = F.interpolate(colours, (sizes.height, width), mode="bicubic").clamp(0, 1)
    pictures: NDArray[np.uint8] = (255 * smooth).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return pictures


def make_sound(number: int, sizes: Sizes) -> Samples:
    """Return four sliding tones with noise, mono at 16 kHz."""
    rng = np.random.default_rng(number)
    times = np.arange(round(sizes.clip_seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tones = [rng.normal() * np.sin(times * (rng.uniform(500, 9000) + 300 * rng.normal() * times)) for _ in range(4)]
    envelope = 0.1 * np.abs(np.sin(times * rng.uniform(2, 9)))
    return (np.sum(tones, axis=0) * envelope + rng.normal(0, 0.01, times.shape)).astype(np.float32)


def make_face_track(number: int, sizes: Sizes) -> FaceTrack:
    """Return a track of synthetic face crops."""
    crops = make_pictures(number, sizes.frames, sizes, square=True)
    count, side = len(crops), crops.shape[1]
    return FaceTrack(
        crops=crops,
        frames=np.arange(count),
        boxes=np.tile(np.array([0, 0, side, side], np.float32), (count, 1)),
        scores=np.ones(count, np.float32),
        landmarks=np.full((count, 6, 2), np.nan, np.float32),
        landmark_quality=np.full(count, np.nan, np.float32),
    )


def make_view(modality: Modality, number: int, sizes: Sizes) -> Any:
    """Return the view of one clip, as a decoder or the face detector would."""
    if modality is Modality.AUDIO:
        return make_sound(number, sizes)
    return make_face_track(number, sizes) if modality is Modality.FACE else make_pictures(number, sizes.frames, sizes)


def make_item(bench: Bench, modality: Modality, number: int) -> ClipToExtract:
    """Return the ``number``-th clip to encode; clips repeat the generated ones."""
    source = bench.sources[number % N_SOURCES]
    return ClipToExtract(replace(source, clip_id=ClipId(f"clip{number:06d}")), {modality: source.digest})


class SyntheticOpener(Opener[ClipToExtract, OpenedClip]):
    """An opener that prepares synthetic views; it makes each of them once.

    Args:
        preparers: The preprocessing of each modality.
        sizes: Sizes of the views.
    """

    def __init__(self, preparers: Mapping[str, Preparer[Any]], sizes: Sizes) -> None:
        self._preparers = preparers
        self._view = cache(lambda name, number: make_view(Modality(name), number, sizes))

    def open(self, item: ClipToExtract) -> OpenedClip:
        """Prepare the views of a clip."""
        number = int(item.clip.clip_id.removeprefix("clip")) % N_SOURCES
        return {name: OpenedView(self._preparers[name].prepare(self._view(name, number))) for name in item.digests}


@dataclass(frozen=True, slots=True)
class CheckStepFactory(ExtractStepFactory):
    """The factory of `ecmf-pipe extract`, with synthetic views if ``decodes`` is false."""

    sizes: Sizes = FULL
    decodes: bool = False

    def opener(self, number: int) -> Any:
        """Build an opener, which uses no GPU."""
        if self.decodes:
            return ExtractStepFactory.opener(self, number)
        hide_gpus()
        preparers = {name: build_preparer(branch.encoder) for name, branch in self.branches.items()}
        return SyntheticOpener(preparers, self.sizes)
