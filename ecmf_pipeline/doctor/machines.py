"""GPUs and CPU cores that a run is projected to, and their assumed speed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ecmf_pipeline.core.errors import InputError

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
"""Peak of dense 16-bit matrix products in TFLOP/s, by GPU (SXM where there are two), after public tables.

They were not measured. Tables differ for the A10G (70 or 125).
"""
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
