"""Project time, cost, storage and files of many clips from the trial that `doctor` measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import read_manifest
from ecmf_pipeline.core.console import echo, format_bytes
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.core.files import read_sealed_json
from ecmf_pipeline.core.resources import read_resources, runs_of_stage
from ecmf_pipeline.doctor.checks import duration
from ecmf_pipeline.doctor.machines import CPU_CORE, GPU_SHARE, GPUS, Machine, find_gpu, speed_of_network
from ecmf_pipeline.settings.params import Params

ONE_MACHINE = "one machine"
"""Limit of stages that run on one machine, however many there are."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The projection of one stage; None if unknown.

    Attributes:
        stage: Name of the stage.
        seconds: Wall time of all machines together.
        bytes: Storage.
        files: Number of files.
        limit: What the time depends on: ``cores``, ``gpu``, ``llm`` or ``one machine``.
        from_runs: Whether the time comes from the recorded runs of the stage.
    """

    stage: str
    seconds: float | None = None
    bytes: float | None = None
    files: int | None = None
    limit: str = ""
    from_runs: bool = False


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


def project(
    params: Params, trial: Mapping[str, Any], clips: int, machine: Machine, runs: Mapping[str, Any] | None = None
) -> Iterator[Cost]:
    """Yield the projection of each stage, in the order of the pipeline; see `assumptions`.

    Args:
        params: The params of the project.
        trial: Figures of `doctor`.
        clips: Number of clips.
        machine: The machine.
        runs: The recorded runs of the stages; see `core.resources.read_resources`.
    """
    rows = len(read_manifest(paths.MANIFEST)) if paths.MANIFEST.is_file() else 0

    def scaled(*outputs: Path) -> float | None:
        size = sum(_size(path) for path in outputs)
        return size / rows * clips if rows and size else None

    def from_runs(stage: str, *outputs: Path, files: int | None = None, machines: int = 1) -> Cost:
        longest = runs_of_stage(runs or {}, stage)
        of_clips = [(run["seconds"], run.get("clips") or rows) for run in longest]
        if files is None:
            files = sum(map(_count, outputs)) or None
        if not of_clips or not all(count for _, count in of_clips):
            return Cost(stage, bytes=scaled(*outputs), files=files)
        seconds = sum(run * clips / count for run, count in of_clips) / machines
        return Cost(stage, seconds, scaled(*outputs), files, "" if machines > 1 else ONE_MACHINE, from_runs=True)

    yield from_runs("index", paths.MANIFEST, paths.INDEX_CACHE, files=7)
    if params.needs_transcripts:
        yield from_runs("transcribe", paths.TRANSCRIPTS.parent, files=_files(clips, 256), machines=machine.gpus)
    if params.needs_llm:
        seconds = seconds_of_text(params, trial, machine)
        total = None if seconds is None else seconds * clips / machine.gpus
        yield Cost("rewrite", total, scaled(paths.REWRITE), _files(clips, 1024), "llm")
    for features in params.tokens:
        yield _extraction(params, features, trial, clips, machine)
    yield from_runs("train", paths.DATA / "fusion")
    yield from_runs("predict", paths.DATA / "predictions")
    answers = _files(clips, 1024) if params.needs_llm else 0
    yield from_runs("vote", paths.VOTES.parent, files=2 + answers)
    yield from_runs("refine", paths.REFINED.parent)
    yield from_runs("evaluate")
    yield from_runs("report", paths.REPORT)


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


def assumptions(trial: Mapping[str, Any], machine: Machine, costs: Sequence[Cost]) -> Iterator[str]:
    """Yield the assumptions of a projection, one a line."""
    measured_on = trial.get("device", {}).get("gpu", "")
    where = measured_on or "one core of this machine's CPU"
    yield f"seconds and bytes of a clip: the trial of `ecmf-pipe doctor` on a few clips of this corpus, on {where}"
    yield "all clips have all inputs, and are as long as those of the trial"
    gpu = machine.gpu and find_gpu(machine.gpu)
    if gpu or measured_on:
        speed = speed_of_network(machine, measured_on)
        peaks = f"{GPUS[gpu or find_gpu(measured_on)]:g} TFLOP/s (peak after public tables, dense 16 bit)"
        ratio = f"{GPU_SHARE:g} x {peaks} / {CPU_CORE:g} TFLOP/s of a core"
        basis = "the ratio of published peaks" if gpu and measured_on else ratio if gpu else f"1 / ({ratio})"
        yield f"ASSUMED, not measured: networks of torch run {speed:,.4g} times as fast on {gpu or 'a core'}: {basis}"
        yield "  `ecmf-pipe doctor` on such a machine measures it"
    if gpu:
        yield f"{machine.cores} CPU cores beside each GPU decode, as fast as those of the trial, at the same time"
    else:
        yield f"{machine.cores} CPU cores of the speed of the trial"
    yield "each modality decodes on its own; in one command the media modalities share a decode and take less"
    if stages := [cost.stage for cost in costs if cost.from_runs]:
        yield f"{', '.join(stages)}: the longest recorded run in this project, in proportion to the clips"
        yield "  a run of few clips is mostly start, which is multiplied too: measure thousands of clips"
        yield "  one machine runs them, whose CPUs are as fast as here; only transcribe is divided among the machines"
    if stages := [cost.stage for cost in costs if cost.seconds is None]:
        yield f"NOT MEASURED, and not in the total: the time of {', '.join(stages)}"
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
    costs = list(project(params, trial, count, machine, read_resources()))
    width = max(16, *(len(cost.stage) for cost in costs))  # names of encoders may be long
    line = f"{{:<{width}}}{{:>12}}{{:>12}}{{:>11}}{{:>11}}  {{}}"
    echo(line.format("stage", "time", "cost", "storage", "files", "limited by"))
    known = [cost.seconds for cost in costs if cost.seconds is not None]
    paid = [None if machine.price is None else _price(cost, machine, machine.price) for cost in costs]
    total = Cost(
        "total",
        sum(known) if known else None,
        sum(cost.bytes or 0 for cost in costs),
        sum(cost.files or 0 for cost in costs),
    )
    prices = [price for price in paid if price is not None]
    for cost, price in zip((*costs, total), (*paid, sum(prices) if prices else None), strict=True):
        echo(
            line.format(
                cost.stage,
                "-" if cost.seconds is None else duration(cost.seconds),
                "-" if price is None else f"{price:,.2f}",
                "-" if cost.bytes is None else format_bytes(cost.bytes),
                "-" if cost.files is None else f"{cost.files:,}",
                cost.limit,
            ).rstrip()
        )
    echo("assumptions:")
    for text in assumptions(trial, machine, costs):
        echo(f"  {text}")


def _price(cost: Cost, machine: Machine, price: float) -> float | None:
    """Return what a stage costs at a price of an hour of a machine; None if its time is unknown."""
    machines = 1 if cost.limit == ONE_MACHINE else machine.gpus
    return None if cost.seconds is None else cost.seconds / 3600 * machines * price


def _files(clips: int, part_size: int) -> int:
    return math.ceil(clips / part_size)


def _count(path: Path) -> int:
    """Return the number of files."""
    return int(path.is_file()) or sum(file.is_file() and file.name != ".gitignore" for file in path.rglob("*"))


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".gitignore")  # of DVC
    return sum(file.stat().st_size for file in files)
