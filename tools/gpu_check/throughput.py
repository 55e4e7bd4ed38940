"""Encode clips with the worker pool of ``extract``, and count them."""

from __future__ import annotations

import math
import pickle
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.extraction.step import (
    BranchEncoder,
    ClipToExtract,
)
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner.machine import default_openers
from ecmf_pipeline.runner.pool import LocalProcesses
from ecmf_pipeline.runner.step import Done, Spool, Task
from tools.gpu_check.bench import MIN_COSINE, N_SOURCES, NAMES, Bench, Row
from tools.gpu_check.inputs import CheckStepFactory, make_item


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
