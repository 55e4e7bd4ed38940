"""Check the pipeline on a CUDA device in under 8 minutes: ``make gpu-check``, or ``python -m tools.gpu_check``.

It needs this tree, torch, transformers and the packages of ``requirements-gpu-check.txt``. The encoders have the shapes
of CLIP-L (frames), HuBERT-L (audio) and ViT-B (face crops), with random weights. Openers decode generated clips, or
prepare synthetic arrays if PyAV is not installed; face crops are always synthetic. The exit code is 0 if all checks
passed, 1 if one failed, 2 without a CUDA device. ``--device cpu --small`` runs the same checks with tiny models.
"""

from __future__ import annotations

import argparse
import gc
import math
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, ClipId, Modality
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.encoders.base import Preparer
from ecmf_pipeline.encoders.base_config import pick_device
from ecmf_pipeline.encoders.config import AudioConfig, VisionConfig
from ecmf_pipeline.encoders.inference import Inference
from ecmf_pipeline.encoders.registry import build_encoder, build_preparer
from ecmf_pipeline.extraction.step import (
    BranchEncoder,
    ClipToExtract,
    ExtractStepFactory,
    OpenedClip,
    OpenedView,
)
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.faces.detector import FaceTrack
from ecmf_pipeline.fusion.config import FusionConfig, SearchConfig, TrainingConfig
from ecmf_pipeline.fusion.training import fit
from ecmf_pipeline.media.config import SAMPLE_RATE, MediaConfig
from ecmf_pipeline.runner.machine import default_openers, hide_gpus, usable_cores
from ecmf_pipeline.runner.pool import LocalProcesses
from ecmf_pipeline.runner.step import Done, Opener, Spool, Task

MIN_COSINE = 0.999
"""Minimum cosine of a centred feature row to that of the CPU."""

N_SOURCES = 8
"""Number of different clips; all further clips repeat them."""

RATE = 25
"""Frames per second of generated clips."""

NAMES = {Modality.GLOBAL: "CLIP-L", Modality.AUDIO: "HuBERT-L", Modality.FACE: "face crops, ViT-B"}

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the checks.

    Attributes:
        shapes: Model sizes by modality, as keywords of the config classes of transformers.
        side: Side of the pictures that the vision models take.
        frames: Pictures of a clip.
        height: Height of a generated picture; the width is 16 : 9.
        clip_seconds: Length of a clip.
        parity_clips: Clips that are also encoded on the CPU.
        clips: Clips in one batch of a worker.
        openers: Processes that open clips for one worker; None: as `extract` chooses.
        warm_up: Seconds after the first batch that are not measured, for each worker.
        seconds: Seconds that are measured.
        wide: Width of the layer that exhausts the memory.
        train_clips: Clips that the fusion is trained on.
        epochs: Maximum number of epochs of the fusion.
    """

    shapes: Mapping[Modality, Mapping[str, Any]]
    side: int = 224
    frames: int = 16
    height: int = 480
    clip_seconds: float = 4.0
    parity_clips: int = 12
    clips: int = 8
    openers: int | None = None
    warm_up: float = 4.0
    seconds: float = 15.0
    wide: int = 65_536
    train_clips: int = 1000
    epochs: int = 30


_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
_TINY_CONVOLUTIONS = {
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 64),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}

FULL = Sizes(
    {
        Modality.GLOBAL: {**_LARGE, "patch_size": 14},
        Modality.AUDIO: _LARGE,
        Modality.FACE: {**_BASE, "patch_size": 16},
    }
)
SMALL = Sizes(
    {
        Modality.GLOBAL: {**_TINY, "patch_size": 16},
        Modality.AUDIO: {**_TINY, **_TINY_CONVOLUTIONS},
        Modality.FACE: {**_TINY, "patch_size": 16},
    },
    side=48,
    frames=2,
    height=96,
    clip_seconds=1.0,
    parity_clips=4,
    clips=4,
    openers=1,
    warm_up=0.0,
    seconds=0.5,
    wide=256,
    train_clips=80,
    epochs=10,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        check: Name of the check.
        passed: Whether it passed.
        figures: What was measured.
    """

    check: str
    passed: bool
    figures: str


@dataclass(frozen=True, slots=True)
class Bench:
    """The device, the saved models and the generated clips.

    Attributes:
        device: ``cpu`` or ``cuda:<n>``.
        sizes: Sizes of the checks.
        folder: Temporary folder.
        encoders: The encoder of each modality, in half precision.
        sources: The clips; without a path if no decoder is installed.
    """

    device: str
    sizes: Sizes
    folder: Path
    encoders: Mapping[Modality, VisionConfig | AudioConfig]
    sources: Sequence[Clip] = field(default=())

    @property
    def decodes(self) -> bool:
        """Whether openers decode files."""
        return bool(self.sources and self.sources[0].path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks and print a table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_check", description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="a torch device (default: cuda:0)")
    parser.add_argument("--small", action="store_true", help="use tiny models, to test the checks themselves")
    options = parser.parse_args(arguments)
    # A device without a number would let each worker choose a GPU of its own.
    device = "cuda:0" if options.device == "cuda" else options.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        sys.stderr.write("error: no CUDA device is available\nhint: run it on a machine with an NVIDIA GPU\n")
        return 2
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        bench = set_up(Path(name), device, SMALL if options.small else FULL)
        _write(describe(bench, time.perf_counter() - started))
        rows = [row for check in CHECKS for row in run_check(check, bench)]
    failed = [row.check for row in rows if not row.passed]
    seconds = time.perf_counter() - started
    _write(f"\n{len(rows) - len(failed)} of {len(rows)} checks passed in {seconds:.0f} s\n")
    return 1 if failed else 0


def run_check(check: Callable[[Bench], Row], bench: Bench) -> Iterator[Row]:
    """Run one check, print its line and yield it; an exception is a failure."""
    started = time.perf_counter()
    try:
        row = check(bench)
    except Exception as error:  # noqa: BLE001 - the other checks still run
        row = Row(check.__name__.replace("_", " "), False, f"{type(error).__name__}: {str(error).strip()}")
    finally:
        release_memory(bench.device)
    _write(_LINE.format(row.check, "pass" if row.passed else "FAIL", time.perf_counter() - started, row.figures))
    yield row


_LINE = "{:<40}{:<6}{:>5.0f} s  {}\n"


def describe(bench: Bench, seconds: float) -> str:
    """Return the lines above the table."""
    device = torch.device(bench.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    source = "clips decoded by PyAV" if bench.decodes else "synthetic arrays: PyAV is not installed"
    return (
        f"{name}, {usable_cores()} cores, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"transformers {transformers.__version__}\n"
        f"input: {source}; face crops: synthetic arrays; set up in {seconds:.0f} s\n\n"
    )


def set_up(folder: Path, device: str, sizes: Sizes) -> Bench:
    """Save the models with random weights, and generate the clips."""
    # bf16 on CUDA from compute capability 8, fp16 on older CUDA. "auto" may be fp32 on a CPU.
    precision = "auto" if device.startswith("cuda") else "bf16"
    models = {modality: save_model(modality, folder / modality.value, sizes) for modality in sizes.shapes}
    encoders: dict[Modality, VisionConfig | AudioConfig] = {
        # Of random weights the class token depends little on the picture, the mean of the patches does.
        Modality.GLOBAL: VisionConfig(
            model=models[Modality.GLOBAL], precision=precision, token_pool="mean", batch_size=64
        ),
        Modality.AUDIO: AudioConfig(model=models[Modality.AUDIO], precision=precision, batch_size=16),
        Modality.FACE: VisionConfig(model=models[Modality.FACE], precision=precision, token_pool="mean", batch_size=64),
    }
    decodes = find_spec("av") is not None
    sources = [generate_clip(folder, number, sizes, writes=decodes) for number in range(N_SOURCES)]
    return Bench(device, sizes, folder, encoders, sources)


def save_model(modality: Modality, folder: Path, sizes: Sizes) -> str:
    """Save a model with random weights and its preprocessing; return its folder."""
    square = {"height": sizes.side, "width": sizes.side}
    shape = sizes.shapes[modality]
    processor: Any
    model: Any
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if modality is Modality.GLOBAL:
            model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(image_size=sizes.side, **shape))
            processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": sizes.side}, crop_size=square)
        elif modality is Modality.FACE:
            config = transformers.ViTConfig(image_size=sizes.side, **shape)
            model = transformers.ViTModel(config, add_pooling_layer=False)
            processor = transformers.ViTImageProcessorPil(size=square)
        else:
            large = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
            model = transformers.HubertModel(transformers.HubertConfig(**large, **shape))
            processor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


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


def check_parity(bench: Bench, modality: Modality) -> Row:
    """Compare features in half precision on the device with those in float32 on the CPU.

    Features are averaged for each clip and centred on each side, because the mean hides the differences of clips. The
    nearest CPU row of each clip must be its own, and their cosine at least `MIN_COSINE`.
    """
    config = bench.encoders[modality]
    sizes = replace(bench.sizes, frames=min(2, bench.sizes.frames))
    views = [make_view(modality, number, sizes) for number in range(sizes.parity_clips)]
    rows = []
    for device, settings in (("cpu", {"precision": "fp32"}), (bench.device, {})):
        encoder = build_encoder(config.model_copy(update=settings), device)
        rows.append(np.stack([encoding.values.mean(axis=0) for encoding in encoder.encode(views)]))
        encoder.close()
    cosines = centred_cosines(*rows)
    own = cosines.diagonal()
    nearest = cosines.argmax(axis=0) == np.arange(len(own))
    precision = config.resolved(bench.device).precision
    return Row(
        f"parity with the CPU, {NAMES[modality]}",
        bool(nearest.all() and (own >= MIN_COSINE).all()),
        f"{precision}: minimum cosine {own.min():.5f}, {nearest.sum()} of {len(own)} nearest to themselves",
    )


def centred_cosines(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each row of ``first`` with each of ``second``, (n, m); each side is centred on its mean."""
    centred = [rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64) for rows in (first, second)]
    one, two = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in centred)
    cosines: NDArray[np.float64] = one @ two.T
    return cosines


@dataclass(slots=True)
class Throughput:
    """Result of encoding clips with worker processes.

    Attributes:
        clips: Clips encoded in all.
        errors: Messages of clips that failed.
        per_second: Clips per second after the warm-up.
        busy: Samples of the percentage of time in which the GPU ran a kernel.
        cosine: Minimum cosine of centred features of the same clip.
    """

    clips: int = 0
    errors: list[str] = field(default_factory=list)
    per_second: float = 0.0
    busy: list[int] = field(default_factory=list)
    cosine: float = math.nan

    def figures(self) -> str:
        """Return the figures as text."""
        busy = f"GPU busy {np.mean(self.busy):.0f}%" if self.busy else "GPU busy share unknown"
        failed = f"; {len(self.errors)} failed, the first: {self.errors[0]}" if self.errors else ""
        return f"{self.per_second:.1f} clips/s, {busy}, {self.clips} clips{failed}"


def check_throughput(bench: Bench, modality: Modality, workers: int = 1) -> Row:
    """Encode clips for some seconds, opened by processes on all other cores; no clip may fail."""
    openers = default_openers(workers) if bench.sizes.openers is None else workers * bench.sizes.openers
    result = measure(bench, modality, workers=workers, openers=openers)
    source = "decoded" if bench.decodes and modality is not Modality.FACE else "synthetic"
    figures = f"{result.figures()}; {openers} openers, {source}; same clip: cosine {result.cosine:.5f}"
    name = f"{workers} workers on one GPU" if workers > 1 else "throughput"
    return Row(
        f"{name}, {NAMES[modality]}", bool(result.clips) and not result.errors and result.cosine >= MIN_COSINE, figures
    )


def measure(bench: Bench, modality: Modality, *, workers: int, openers: int) -> Throughput:
    """Encode clips with the worker pool of ``extract`` until the time is over."""
    sizes, result = bench.sizes, Throughput()
    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    branch = BranchEncoder(modality, bench.encoders[modality], {"check": modality.value}, folder / "check.zarr")
    factory = CheckStepFactory(
        {modality: branch},
        bench.folder,
        MediaConfig(frames=sizes.frames, reader="pyav"),
        FaceConfig(source="openface"),
        bench.device,
        uses_openers=True,
        sizes=sizes,
        decodes=bench.decodes and modality is not Modality.FACE,
    )
    spool: Spool[Any] = Spool(folder, pickle.dumps)
    begin = end = math.inf  # the window that is measured; it starts with the first finished batch

    def tasks() -> Iterator[Task[ClipToExtract]]:
        number = 0
        # The pool takes tasks one at a time, so it takes none after the end of the window.
        while time.perf_counter() < end:
            items = tuple(make_item(bench, modality, number * sizes.clips + index) for index in range(sizes.clips))
            yield Task(f"{number:06d}", 0, items)
            number += 1

    finished: list[tuple[float, Done[ClipToExtract]]] = []
    pool = LocalProcesses(workers, openers=openers)
    for done in pool.run(tasks(), factory, {modality.value: spool}):
        now = time.perf_counter()
        if not finished:
            begin = now + workers * sizes.warm_up
            end = begin + sizes.seconds
        finished.append((now, done))
        result.errors += [f"{target.clip_id}: {error}" for target, error in done.errors]
        if begin <= now <= end and (percent := busy_percent(bench.device)) is not None:
            result.busy.append(percent)
    rows = [row for _, done in finished for row in pickle.loads(spool.read(done.task.name) or pickle.dumps([]))]
    result.clips = len(rows)
    in_window = [sum(done.kept.values()) for now, done in finished if begin < now <= end]
    result.per_second = sum(in_window) / sizes.seconds
    result.cosine = repeat_cosine(rows)
    return result


def make_item(bench: Bench, modality: Modality, number: int) -> ClipToExtract:
    """Return the ``number``-th clip to encode; clips repeat the generated ones."""
    source = bench.sources[number % N_SOURCES]
    return ClipToExtract(replace(source, clip_id=ClipId(f"clip{number:06d}")), {modality: source.digest})


def repeat_cosine(rows: Sequence[Any]) -> float:
    """Return the minimum cosine of the centred features of each clip with those of the first clip of its source."""
    pooled: dict[int, list[NDArray[np.float32]]] = {number: [] for number in range(N_SOURCES)}
    for row in sorted(rows, key=lambda row: str(row.clip_id)):
        pooled[int(row.clip_id.removeprefix("clip")) % N_SOURCES].append(row.values.astype(np.float32).mean(axis=0))
    if not all(pooled.values()):
        return math.nan
    first = np.stack([repeats[0] for repeats in pooled.values()])
    centre = first.mean(axis=0)
    least = 1.0
    for repeats in pooled.values():
        centred = np.stack(repeats) - centre
        norms = np.linalg.norm(centred, axis=1)
        least = min(least, float((centred @ centred[0] / norms / norms[0]).min()))
    return least


def busy_percent(device: str) -> int | None:
    """Return the percentage of the last sample period in which the GPU ran a kernel; None if it is unknown."""
    if not device.startswith("cuda"):
        return None
    try:
        return int(torch.cuda.utilization(torch.device(device)))
    except Exception:  # noqa: BLE001 - NVML is absent, or reports no utilization in this container
        return None


def check_halving(bench: Bench) -> Row:
    """Encode a batch that exceeds the memory: the batch size must be halved, and the rows must stay the same.

    On CUDA the memory of this process is limited; on a CPU the error is simulated.
    """
    device, wide, rows = pick_device(bench.device), bench.sizes.wide, 4096
    items = np.random.default_rng(0).normal(size=(rows, 64)).astype(np.float32)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, wide, generator=generator).to(device) / wide**0.5

    def forward(batch: torch.Tensor) -> torch.Tensor:
        if device.type == "cpu" and len(batch) > rows // 4:
            raise torch.OutOfMemoryError("simulated")
        return (batch @ weight).relu() @ weight.T  # two arrays (B, wide)

    expected = Inference(bench.device, rows // 16).rows_of_clips([items], forward)[0]
    inference = Inference(bench.device, rows)
    with limited_memory(bench.device, 3 * rows * wide):  # bytes; rows // 4 items need 2 * rows * wide
        actual = inference.rows_of_clips([items], forward)[0]
    same = bool(np.allclose(actual, expected, rtol=1e-3, atol=1e-3))
    return Row(
        "out-of-memory halving",
        same and inference.batch_size == rows // 4,
        f"batch of {rows}: halved to {inference.batch_size}; rows {'equal' if same else 'DIFFER'}"
        + ("" if device.type == "cuda" else " (simulated error)"),
    )


class limited_memory:  # noqa: N801 - used like a function
    """A context in which torch may allocate only some more bytes on a CUDA device.

    Args:
        device: The device; nothing is limited on a CPU.
        size: Bytes in addition to those that torch holds on entry.
    """

    def __init__(self, device: str, size: int) -> None:
        self._device, self._size = torch.device(device), size

    def __enter__(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(self._device).total_memory
            limit = torch.cuda.memory_reserved(self._device) + self._size
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), self._device)

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, self._device)


def check_fusion(bench: Bench) -> Row:
    """Train the fusion on the device and on the CPU: its accuracy on new clips must be within 5 points."""
    sizes = bench.sizes
    features, labels = fusion_data(2 * sizes.train_clips)
    known = slice(None, sizes.train_clips)
    new = slice(sizes.train_clips, None)
    accuracies, seconds = [], []
    for device in ("cpu", bench.device):
        started = time.perf_counter()
        ensemble = fit(
            {name: values[known] for name, values in features.items()},
            labels[known],
            fusion=FusionConfig(),
            training=TrainingConfig(
                folds=2, seeds=1, epochs=sizes.epochs, search=SearchConfig(trials=1, folds=2), device=device
            ),
            description=f"train on {device}",
        )
        probs = ensemble.predict({name: values[new] for name, values in features.items()}).probs
        if not np.isfinite(probs).all():
            raise ValueError(f"the fusion trained on {device} predicts NaN")
        accuracies.append(float((probs.argmax(axis=1) == labels[new]).mean()))
        seconds.append(time.perf_counter() - started)
    return Row(
        "fusion training",
        accuracies[1] >= accuracies[0] - 0.05 and accuracies[1] > 0.5,
        f"accuracy {accuracies[1]:.3f}, on the CPU {accuracies[0]:.3f}; {seconds[1]:.1f} s, on the CPU "
        f"{seconds[0]:.1f} s",
    )


def fusion_data(clips: int) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Return features of two modalities, one of them at frame level, and labels of four classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=clips)
    centres = rng.normal(size=(2, 4, 64))
    frames = centres[0][labels][:, None] + rng.normal(0, 2, (clips, 8, 64))
    frames[rng.random((clips, 8)) < 0.1] = np.nan  # missing frames
    whole = centres[1][labels] + rng.normal(0, 2, (clips, 64))
    whole[:: clips // 10] = np.nan  # missing clips
    return {"global": frames.astype(np.float32), "text": whole.astype(np.float32)}, labels


def release_memory(device: str) -> None:
    """Release the GPU memory of the last check: workers need it."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def parity_of_frames(bench: Bench) -> Row:
    """Check the parity of the model of frames."""
    return check_parity(bench, Modality.GLOBAL)


def parity_of_audio(bench: Bench) -> Row:
    """Check the parity of the model of audio."""
    return check_parity(bench, Modality.AUDIO)


def parity_of_faces(bench: Bench) -> Row:
    """Check the parity of the model of face crops."""
    return check_parity(bench, Modality.FACE)


def throughput_of_frames(bench: Bench) -> Row:
    """Measure the model of frames."""
    return check_throughput(bench, Modality.GLOBAL)


def throughput_of_audio(bench: Bench) -> Row:
    """Measure the model of audio."""
    return check_throughput(bench, Modality.AUDIO)


def throughput_of_faces(bench: Bench) -> Row:
    """Measure the model of face crops."""
    return check_throughput(bench, Modality.FACE)


def two_workers(bench: Bench) -> Row:
    """Measure two workers on one GPU."""
    return check_throughput(bench, Modality.GLOBAL, workers=2)


CHECKS: tuple[Callable[[Bench], Row], ...] = (
    parity_of_frames,
    parity_of_audio,
    parity_of_faces,
    check_halving,
    check_fusion,
    throughput_of_frames,
    throughput_of_audio,
    throughput_of_faces,
    two_workers,
)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    # Workers unpickle the factory by the name of its module, which is not `__main__` in their process.
    from tools import gpu_check

    sys.exit(gpu_check.main())
