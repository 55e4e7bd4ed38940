"""Measure feature extraction for `make bench`: its overhead over the forward pass and one decode.

The cost per clip is the slope between a short and a long run. It excludes start-up (importing torch, loading
weights): it is the cost that matters for 132,000 clips. Start-up is reported separately. The last lines measure the
commands on 100 new clips, including start-up.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, Modality
from ecmf_pipeline.encoders.config import EfficientNetConfig, EgemapsConfig, MiniXceptionConfig, VisionConfig
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import read_frames
from ecmf_pipeline.runner.machine import memory_environment
from ecmf_pipeline.store import FeatureStore
from tools.bench.clips import RATE, SECONDS, Cost, cost_of, make_clips, run_extraction

FRAMES = 16
CORES = 2
SHORT, LONG = 8, 40
"""Number of clips of the two runs from which the slope is computed."""

NEW = 100
"""Number of new clips, for example of one day."""

_PROJECT = """
preset: embedded
corpus: {{kind: folder, root: clips}}
media: {{frames: {frames}}}
extract:
  workers: {cores}
  device: cpu
  encoders: {{global: efficientnet_lite0, face: mini_xception, audio: egemaps}}
"""

ROW = "{:<66}{:>10}{:>11}{:>8}  {}\n"


@dataclass(frozen=True, slots=True)
class RunCost:
    """Cost per clip, and cost of a run before its first clip."""

    clip: Cost
    start: Cost


def main() -> None:
    """Print one line for each measurement."""
    argparse.ArgumentParser(prog="python -m tools.bench.encoders", description=__doc__).parse_args()
    sys.stdout.write(f"ViT-B/32 with random weights, {FRAMES} frames per clip, {CORES} cores\n")
    sys.stdout.write(ROW.format("", "ours", "reference", "ratio", "required"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = save_vit_b_32(folder / "vit_b_32")
        for size in ("480p", "720p"):
            clips = make_clips(folder / size, size, LONG)
            report_vit(folder, size, clips, model)
        for codec in ("libx265", "mpeg4"):
            report_codec(folder, codec, make_clips(folder / codec, "480p", LONG, codec=codec), model)
        for size, frames in (("480p", 16), ("720p", 16), ("900p", 16), ("1080p", 16), ("1080p", 8)):
            clips = make_clips(folder / size, size, LONG)
            report_joint(folder, size, clips, frames)
        report_commands(folder, "900p", 20)


def save_vit_b_32(folder: Path) -> Path:
    """Save a CLIP vision model of the shape of ViT-B/32 with random weights, and its image processor."""
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32
    )
    transformers.CLIPVisionModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessorPil().save_pretrained(folder)
    return folder


def report_vit(folder: Path, size: str, clips: Sequence[Clip], model: Path) -> None:
    """Compare our extraction to forward pass + decode, and to a serial loop like that of the baseline."""
    corpus = folder / size
    decode = cost_of(lambda: [decode_bare(corpus / clip.path) for clip in clips[:SHORT]]).each(SHORT)
    features: dict[str, NDArray[np.float32]] = {}
    with threads(CORES):
        baseline_loop(corpus, clips[:1], model)  # loads the model and warms up
        loop = cost_of(lambda: features.update(loop=baseline_loop(corpus, clips[:SHORT], model)))
        load = cost_of(lambda: load_baseline(model))
    loop_clip = (loop - load).each(SHORT)
    for precision in ("bf16", "fp32"):
        encoder = VisionConfig(model=str(model), batch_size=FRAMES, precision=precision)
        ours = cost_per_clip({Modality.GLOBAL: encoder}, clips, corpus, folder / "stores", FRAMES)
        forward = forward_cost(encoder)
        store = FeatureStore.open(folder / "stores" / "global.zarr")
        features[precision] = store.load([clip.clip_id for clip in clips[:SHORT]]).values
        bare = forward.cpu + decode.cpu
        title = f"{size} {precision}: CPU s per clip, vs forward {forward.cpu:.3f} + decode {decode.cpu:.3f}"
        _line(title, ours.clip.cpu, bare, ours.clip.cpu / bare, "ours / ref. <= 1.10")
        faster = loop_clip.wall / ours.clip.wall
        required = "ours / ref. >= 2" if precision == "bf16" else "ours / ref. >= 1.2"
        title = f"{size} {precision}: clips per second, vs serial loop"
        _line(title, 1 / ours.clip.wall, 1 / loop_clip.wall, faster, required)
        cosine = min_cosine(features[precision], features["loop"])
        _line(f"{size} {precision}: minimum cosine to the features of the loop", cosine, 1.0, cosine, "cosine >= 0.999")
        start = f"{ours.start.cpu:.3f} CPU s, {ours.start.wall:.3f} s elapsed"
        sys.stdout.write(f"{size} {precision}: start-up: {start}\n")


def report_codec(folder: Path, codec: str, clips: Sequence[Clip], model: Path) -> None:
    """Compare our extraction from another codec to forward pass + sequential decode."""
    encoder = VisionConfig(model=str(model), batch_size=FRAMES, precision="fp32")
    decode = cost_of(lambda: [decode_in_sequence(folder / codec / clip.path) for clip in clips[:SHORT]]).each(SHORT)
    ours = cost_per_clip({Modality.GLOBAL: encoder}, clips, folder / codec, folder / "stores", FRAMES)
    forward = forward_cost(encoder)
    bare = forward.cpu + decode.cpu
    title = f"{codec} 480p fp32: CPU s per clip, vs forward {forward.cpu:.3f} + decode {decode.cpu:.3f}"
    _line(title, ours.clip.cpu, bare, ours.clip.cpu / bare, "ours / ref. <= 1.10")


def report_joint(folder: Path, size: str, clips: Sequence[Clip], frames: int) -> None:
    """Compare three modalities extracted in one run with one decode to three separate runs."""
    corpus = folder / size
    encoders = {
        Modality.GLOBAL: EfficientNetConfig(),
        Modality.FACE: MiniXceptionConfig(),
        Modality.AUDIO: EgemapsConfig(),
    }
    media = MediaConfig(frames=frames)
    decode = decode_cost([corpus / clip.path for clip in clips[:SHORT]], media)
    joint = cost_per_clip(encoders, clips, corpus, folder / "stores", frames)
    separate = [
        cost_per_clip({modality: encoder}, clips, corpus, folder / "stores", frames)
        for modality, encoder in encoders.items()
    ]
    separate_cpu = sum(cost.clip.cpu for cost in separate)
    share = decode.cpu / joint.clip.cpu
    title = f"{size}, {frames} frames: global + face + audio, CPU s per clip, vs separate"
    _line(
        title,
        joint.clip.cpu,
        separate_cpu,
        separate_cpu / joint.clip.cpu,
        f"ref. / ours >= 1.4 (decoding {share:.0%})",
    )


def report_commands(folder: Path, size: str, frames: int) -> None:
    """Compare one `extract` command for all media modalities to one command for each modality, on new clips."""
    project = folder / "project"
    make_clips(project / "clips", size, NEW)
    (project / "data").mkdir()
    (project / "data" / "models").symlink_to(Path(os.environ.get("ECMF_MODELS", "data/models")).resolve())
    (project / "params.yaml").write_text(_PROJECT.format(frames=frames, cores=CORES))

    def command(*words: str) -> Cost:
        line = [sys.executable, "-m", "ecmf_pipeline", *words]
        return cost_of(lambda: subprocess.run(line, cwd=project, check=True, capture_output=True))

    media = [Modality.GLOBAL, Modality.FACE, Modality.AUDIO]
    command("index")
    joint = command("extract", *(word for modality in media for word in ("--modality", modality.value)))
    shutil.rmtree(project / "data" / "features")
    separate = [command("extract", "--modality", modality.value) for modality in media]
    decode = decode_cost(sorted((project / "clips").iterdir())[:SHORT], MediaConfig(frames=frames))
    share = NEW * decode.cpu / joint.cpu
    title = f"{size}, {frames} frames: {NEW} new clips, one command vs three"
    wall = sum(cost.wall for cost in separate)
    _line(
        f"{title}, s elapsed",
        joint.wall,
        wall,
        wall / joint.wall,
        f"ref. / ours >= 1.4 (decoding {share:.0%})",
    )
    cpu = sum(cost.cpu for cost in separate)
    _line(f"{title}, CPU s", joint.cpu, cpu, cpu / joint.cpu, "")


def decode_cost(paths: Sequence[Path], media: MediaConfig) -> Cost:
    """Measure reading the frames of a clip in a process with the memory settings of a worker, without start-up."""
    code = (
        "import sys; from pathlib import Path; from tools.bench.encoders import *\n"
        "frames, *paths = sys.argv[1:]; media = MediaConfig(frames=int(frames)); read_frames(Path(paths[0]), media)\n"
        "cost = cost_of(lambda: sum(len(read_frames(Path(path), media)[1]) for path in paths)).each(len(paths))\n"
        "print(cost.cpu, cost.wall)"
    )
    words = [sys.executable, "-c", code, str(media.frames), *map(str, paths)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | memory_environment())
    return Cost(*map(float, done.stdout.split()))


def cost_per_clip(
    encoders: dict[Modality, VisionConfig | EfficientNetConfig | MiniXceptionConfig | EgemapsConfig],
    clips: Sequence[Clip],
    corpus: Path,
    stores: Path,
    frames: int,
) -> RunCost:
    """Return the slope and the intercept of the cost of runs with `SHORT` and `LONG` clips."""

    def run(count: int) -> Cost:
        shutil.rmtree(stores, ignore_errors=True)
        return cost_of(
            lambda: run_extraction(
                encoders,
                clips[:count],
                corpus=corpus,
                stores=stores,
                media=MediaConfig(frames=frames),
                config=ExtractConfig(workers=CORES, device="cpu", batch_size=4),
            )
        )

    short, long = run(SHORT), run(LONG)
    clip = (long - short).each(LONG - SHORT)
    return RunCost(clip, Cost(short.cpu - SHORT * clip.cpu, short.wall - SHORT * clip.wall))


@torch.inference_mode()
def forward_cost(config: VisionConfig) -> Cost:
    """Measure the forward pass of the preprocessed frames of one clip, on one thread."""
    with threads(1):
        encoder = build_encoder(config, "cpu")
        frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 224, 224, 3), np.uint8)
        prepared = [encoder.preparer.prepare(frames)]
        encoder.encode_prepared(prepared)
        return cost_of(lambda: [encoder.encode_prepared(prepared) for _ in range(4)]).each(4)


def decode_bare(path: Path) -> NDArray[np.uint8]:
    """Decode the frames of a clip with decord at full size, on one thread."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    frames: NDArray[np.uint8] = reader.get_batch(np.linspace(0, len(reader) - 1, FRAMES).round().astype(int)).asnumpy()
    return frames


def decode_in_sequence(path: Path) -> NDArray[np.uint8]:
    """Decode all frames of a clip with PyAV on one thread, and keep those that are sampled."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        sampled = set(np.linspace(0, SECONDS * RATE - 1, FRAMES).round().astype(int).tolist())
        frames = enumerate(container.decode(stream))
        return np.stack([frame.to_ndarray(format="rgb24") for index, frame in frames if index in sampled])


def load_baseline(model: Path) -> tuple[transformers.CLIPVisionModel, transformers.CLIPImageProcessorPil]:
    """Load the model in float32 and its Pillow image processor."""
    network = transformers.CLIPVisionModel.from_pretrained(model).eval()
    return network, transformers.CLIPImageProcessorPil.from_pretrained(model)


@torch.inference_mode()
def baseline_loop(corpus: Path, clips: Sequence[Clip], model: Path) -> NDArray[np.float32]:
    """Run a serial loop like that of the baseline: full-size decode, Pillow, float32, one batch per clip, all threads.

    It uses the same frames as our extraction, which makes the features comparable.
    """
    network, processor = load_baseline(model)
    rows = []
    for clip in clips:
        frames, _ = read_frames(corpus / clip.path, MediaConfig(frames=FRAMES, max_side=4096))
        inputs = processor(list(frames), return_tensors="pt")
        rows.append(network(**inputs).pooler_output.mean(dim=0).numpy())
    return np.stack(rows)


def min_cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Return the minimum cosine similarity of corresponding rows, (n, D) each."""
    products = (ours * theirs).sum(axis=1)
    cosines = products / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    return float(cosines.min())


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set the number of threads of torch inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _line(title: str, ours: float, reference: float, ratio: float, required: str) -> None:
    sys.stdout.write(ROW.format(title, f"{ours:.3f}", f"{reference:.3f}", f"{ratio:.3f}", required))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
