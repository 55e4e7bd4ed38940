"""Project time, cost, storage and files of many clips from the trial that `doctor` measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import read_manifest
from ecmf_pipeline.core.console import echo, format_bytes
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import read_sealed_json
from ecmf_pipeline.doctor.checks import duration
from ecmf_pipeline.settings.params import Params

GPUS: Mapping[str, float] = {
    "t4": 65,
    "l4": 121,
    "v100": 125,
    "a10": 125,
    "a10g": 70,
    "a40": 150,
    "rtx4090": 165,
    "a100": 312,
    "l40": 181,
    "l40s": 362,
    "h100": 989,
    "h200": 989,
    "b200": 2250,
}
"""Published peak of dense 16-bit matrix products in TFLOP/s, by GPU (NVIDIA's data sheets; SXM where there are two)."""
CPU_CORE = 0.1
"""Peak of one CPU core in TFLOP/s: two units of 8 fp32 lanes, multiply and add, at 3 GHz (AVX2)."""
GPU_SHARE = 0.25
"""Assumed share of its peak that a GPU reaches, relative to the share that the measured CPU core reaches."""
DEFAULT_CORES = 16
_SPACED = re.compile(r"([a-z])(\d)")
"""Between letters and digits, names of devices may have a separator."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine to project to.

    Attributes:
        gpu: Name of the GPU in `GPUS`; empty for CPUs only.
        gpus: Number of GPUs; without a GPU, of machines.
        cores: CPU cores beside each.
        price: Price of an hour of each; None if it is not asked for.
    """

    gpu: str = ""
    gpus: int = 1
    cores: int = DEFAULT_CORES
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """The projection of one stage; None if unknown.

    Attributes:
        stage: Name of the stage.
        seconds: Wall time of all machines together.
        bytes: Storage.
        files: Number of files.
        limit: What the time depends on: ``cores`` or ``gpu``.
    """

    stage: str
    seconds: float | None = None
    bytes: float | None = None
    files: int | None = None
    limit: str = ""


def read_trial() -> dict[str, Any]:
    """Return the figures that `doctor` has measured, by the name of its check.

    Raises:
        MissingInput: If it has not run.
        InputError: If their file is damaged.
    """
    if not paths.TRIAL.is_file():
        raise MissingInput(
            "nothing was measured in this project yet", "measure a trial of four clips", command="ecmf-pipe doctor"
        )
    return read_sealed_json(paths.TRIAL, made_by="doctor")


def find_gpu(name: str) -> str:
    """Return the entry of `GPUS` that a name or the name of a device means.

    Raises:
        InputError: If it is unknown.
    """
    matches = [gpu for gpu in GPUS if re.search(_SPACED.sub(r"\1[ _-]*\2", gpu) + r"(?!\d)", name.lower())]
    if not matches:
        raise InputError(f"unknown GPU {name!r}", f"use one of {', '.join(GPUS)}")
    return max(matches, key=len)


def speed_of_network(machine: Machine, measured_on: str) -> float:
    """Return how many times as fast as in the trial a network runs on the GPU of a machine, or on one of its cores.

    Args:
        machine: The machine.
        measured_on: Name of the GPU of the trial; empty if it ran on one CPU core.

    Raises:
        InputError: If one of the GPUs is unknown.
    """
    try:
        measured = _speed(find_gpu(measured_on)) if measured_on else 1.0
    except InputError as error:
        raise InputError(
            f"doctor measured on a GPU whose peak is not known: {measured_on}",
            "measure on a CPU with extract.device: cpu, or on a GPU of the kind to project to",
            command="ecmf-pipe doctor",
        ) from error
    return _speed(machine.gpu and find_gpu(machine.gpu)) / measured


def _speed(gpu: str) -> float:
    """Return the assumed speed of a GPU relative to that of a CPU core; without a GPU, of a core."""
    return GPU_SHARE * GPUS[gpu] / CPU_CORE if gpu else 1.0


def seconds_of_clip(
    figures: Mapping[str, Any], machine: Machine, *, on_gpu: bool, measured_on: str
) -> tuple[float, str]:
    """Return the seconds between two clips of one machine, and whether its cores or its GPU limit them.

    Args:
        figures: Figures of the trial of an encoder.
        machine: The machine.
        on_gpu: Whether the encoder runs on a GPU if there is one.
        measured_on: See `speed_of_network`.
    """
    seconds, share = figures["seconds_a_clip"], figures["opening_share"]
    if not on_gpu:
        return seconds / machine.cores, "cores"
    opening, network = seconds * share / machine.cores, seconds * (1 - share) / speed_of_network(machine, measured_on)
    if not machine.gpu:
        return opening + network / machine.cores, "cores"
    return max(opening, network), "cores" if opening >= network else "gpu"


def seconds_of_text(params: Params, trial: Mapping[str, Any], machine: Machine) -> float | None:
    """Return the seconds between two texts that the LLM enriches on one machine; None if unknown."""
    seconds, device = trial.get("llm", {}).get("seconds_a_text"), trial.get("device", {})
    if seconds is None or params.llm.backend == "openai":
        return cast("float | None", seconds)
    measured_on = device.get("gpu", "")
    cores = 1 if measured_on else device.get("cores", 1)  # the trial uses all of them
    return float(seconds) * cores / speed_of_network(machine, measured_on) / (1 if machine.gpu else machine.cores)


def project(params: Params, trial: Mapping[str, Any], clips: int, machine: Machine) -> Iterator[Cost]:
    """Yield the projection of each stage, in the order of the pipeline; see `assumptions`."""
    rows = len(read_manifest(paths.MANIFEST)) if paths.MANIFEST.is_file() else 0

    def scaled(*outputs: Path) -> float | None:
        size = sum(_size(path) for path in outputs)
        return size / rows * clips if rows and size else None

    yield Cost("index", bytes=scaled(paths.MANIFEST, paths.INDEX_CACHE), files=7)
    if params.needs_transcripts:
        yield Cost("transcribe", bytes=scaled(paths.TRANSCRIPTS.parent), files=_files(clips, 256))
    if params.needs_llm:
        seconds = seconds_of_text(params, trial, machine)
        total = None if seconds is None else seconds * clips / machine.gpus
        yield Cost("rewrite", total, scaled(paths.REWRITE), _files(clips, 1024), "llm")
    for features in params.tokens:
        yield _extraction(params, features, trial, clips, machine)
    yield Cost("predict", bytes=scaled(paths.DATA / "predictions"))
    yield Cost("vote", bytes=scaled(paths.VOTES.parent))
    yield Cost("refine", bytes=scaled(paths.REFINED.parent))


def _extraction(params: Params, features: str, trial: Mapping[str, Any], clips: int, machine: Machine) -> Cost:
    """Return the projection of one encoder, by the name of its features (`Params.tokens`)."""
    name, figures = f"extract {features}", trial.get(f"trial {features}", {})
    if not figures.get("seconds_a_clip"):
        return Cost(name)
    on_gpu = params.encoder_of(*params.tokens[features]).uses_torch
    measured_on = trial.get("device", {}).get("gpu", "")
    seconds, limit = seconds_of_clip(figures, machine, on_gpu=on_gpu, measured_on=measured_on)
    size = figures["bytes_a_clip"]
    files = math.ceil(clips / params.extract.part_size) * (figures["files_of_part"] or 1)
    return Cost(name, seconds * clips / machine.gpus, None if size is None else size * clips, files, limit)


def assumptions(trial: Mapping[str, Any], machine: Machine) -> Iterator[str]:
    """Yield the assumptions of a projection, one a line."""
    measured_on = trial.get("device", {}).get("gpu", "")
    where = measured_on or "one core of this machine's CPU"
    yield f"seconds and bytes of a clip: the trial of `ecmf-pipe doctor` on a few clips of this corpus, on {where}"
    yield "all clips have all inputs, and are as long as those of the trial"
    gpu = machine.gpu and find_gpu(machine.gpu)
    if gpu or measured_on:
        speed = speed_of_network(machine, measured_on)
        peaks = f"{GPUS[gpu or find_gpu(measured_on)]:g} TFLOP/s (published peak, dense 16 bit)"
        ratio = f"{GPU_SHARE:g} x {peaks} / {CPU_CORE:g} TFLOP/s of a core"
        basis = "the ratio of published peaks" if gpu and measured_on else ratio if gpu else f"1 / ({ratio})"
        yield f"ASSUMED, not measured: networks of torch run {speed:,.4g} times as fast on {gpu or 'a core'}: {basis}"
    if gpu:
        yield f"{machine.cores} CPU cores beside each GPU decode, as fast as those of the trial, at the same time"
    else:
        yield f"{machine.cores} CPU cores of the speed of the trial"
    yield "each modality decodes on its own; in one command the media modalities share a decode and take less"
    yield "tables grow with the clips as in this project; - is unknown: nothing was measured or written yet"


def show_plan(params: Params, clips: int | None, machine: Machine) -> None:
    """Print the projection and its assumptions.

    Args:
        params: The params of the project.
        clips: Number of clips; None: those of the manifest.
        machine: The machine.

    Raises:
        MissingInput: If `doctor` has not run, or there is neither a number of clips nor a manifest.
        InputError: If the GPU is unknown.
    """
    if machine.gpu:
        find_gpu(machine.gpu)
    trial = read_trial()
    count = len(read_manifest(paths.MANIFEST)) if clips is None else clips
    hardware = f"{machine.gpus} x {find_gpu(machine.gpu)}" if machine.gpu else f"{machine.gpus} x CPU"
    echo(f"plan: {count:,} clips on {hardware} with {machine.cores} cores each")
    costs = list(project(params, trial, count, machine))
    width = max(16, *(len(cost.stage) for cost in costs))  # names of encoders may be long
    line = f"{{:<{width}}}{{:>12}}{{:>12}}{{:>11}}{{:>11}}  {{}}"
    echo(line.format("stage", "time", "cost", "storage", "files", "limited by"))
    known = [cost.seconds for cost in costs if cost.seconds is not None]
    total = Cost("total", sum(known), sum(cost.bytes or 0 for cost in costs), sum(cost.files or 0 for cost in costs))
    for cost in (*costs, total):
        paid = None
        if cost.seconds is not None and machine.price is not None:
            paid = cost.seconds / 3600 * machine.gpus * machine.price
        echo(
            line.format(
                cost.stage,
                "-" if cost.seconds is None else duration(cost.seconds),
                "-" if paid is None else f"{paid:,.2f}",
                "-" if cost.bytes is None else format_bytes(cost.bytes),
                "-" if cost.files is None else f"{cost.files:,}",
                cost.limit,
            ).rstrip()
        )
    echo("assumptions:")
    for text in assumptions(trial, machine):
        echo(f"  {text}")


def _files(clips: int, part_size: int) -> int:
    return math.ceil(clips / part_size)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".gitignore")  # of DVC
    return sum(file.stat().st_size for file in files)
