"""Cores, memory and processor of this machine, and what its kernel counts."""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_PROCESSOR = Path("/proc/cpuinfo")
_BF16 = {"avx512_bf16", "amx_bf16"}
_KERNEL_COUNTS = Path("/proc/vmstat")
_THREADS = (
    "OMP_NUM_THREADS",  # torch, too
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "RAYON_NUM_THREADS",  # tokenizers
)
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # bytes


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and a container's share of processor time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):  # no control group, or none of version 2
        return cores
    return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))


def threads_per_worker(workers: int | None) -> int:
    """Threads with which so many workers share out the cores; one if there is a worker for each core.

    Args:
        workers: As `RunConfig.workers`; a single one has all cores.
    """
    return max(1, usable_cores() // workers) if workers else 1


def thread_settings(threads: int) -> dict[str, str]:
    """Environment that gives numerical libraries so many threads; they read it when they are loaded."""
    return dict.fromkeys(_THREADS, str(threads))


def memory_settings() -> dict[str, str]:
    """Environment under which glibc keeps what a worker frees; what is set already stays.

    By default it gives every large array back to the kernel, which then has to clear as many pages for the next: half
    of the time that a convolutional network takes on a CPU.
    """
    return {name: os.environ.get(name, value) for name, value in _KEPT_MEMORY.items()}


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for bfloat16 matrices, as far as the kernel says."""
    try:
        lines = _PROCESSOR.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(_BF16 & set(line.split()) for line in lines if line.startswith("flags"))


def count_oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started; 0 where it does not say."""
    try:
        counts = dict(line.split() for line in _KERNEL_COUNTS.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("oom_kill", 0))
