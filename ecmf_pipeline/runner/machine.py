"""Detect cores, GPUs and memory of this machine, and convert out-of-memory errors to one type."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CPU_INFO = Path("/proc/cpuinfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_VMSTAT = Path("/proc/vmstat")
_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
_ANY_GPU = {"auto", "cuda"}
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",  # also torch
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "RAYON_NUM_THREADS",  # tokenizers
)
_MALLOC_LIMITS = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # bytes
_MACHINE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE}
_OPENCV_OUT_OF_MEMORY = -4
_OUT_OF_MEMORY_MESSAGES = ("out of memory", "not enough memory", "allocate memory", "_alloc_failed", "bad_alloc")
"""Messages of torch's CPU allocator (Linux, Windows), CUDA, cuBLAS and C++."""


def usable_cores() -> int:
    """Return the number of cores that this process may use, by CPU affinity and the container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_QUOTA.read_text().split()
    except (OSError, ValueError):  # no control group of version 2
        return cores
    return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))


def threads_per_worker(workers: int | None) -> int:
    """Return the threads of each worker if ``workers`` share the cores; 1 if there is one worker for each core."""
    return max(1, usable_cores() // workers) if workers else 1


def thread_environment(threads: int) -> dict[str, str]:
    """Return environment variables that limit the threads of numerical libraries, which read them at import."""
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))


def memory_environment() -> dict[str, str]:
    """Return environment variables that make glibc keep the memory freed by a worker; variables already set are kept.

    By default glibc returns each large array to the kernel, which must then clear as many pages for the next one: half
    of the time of a convolutional network on a CPU.
    """
    return {name: os.environ.get(name, value) for name, value in _MALLOC_LIMITS.items()}


def has_bf16_instructions() -> bool:
    """Return whether the CPU has instructions for bfloat16 matrix products, according to ``/proc/cpuinfo``."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(_BF16_FLAGS & set(line.split()) for line in lines if line.startswith("flags"))


def count_oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since boot; 0 if unknown."""
    try:
        counts = dict(line.split() for line in _VMSTAT.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("oom_kill", 0))


@contextmanager
def as_out_of_memory() -> Iterator[None]:
    """Convert out-of-memory errors of torch, CUDA, OpenCV and the system to MemoryError.

    Raises:
        MemoryError: With the first line of the library's message.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or not is_out_of_memory(error):
            raise
        raise MemoryError(str(error).partition("\n")[0].strip()) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; compares class names and messages, to avoid importing the libraries."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    class_names = {f"{base.__module__}.{base.__name__}" for base in type(error).__mro__}
    if "cv2.error" in class_names:
        return getattr(error, "code", None) == _OPENCV_OUT_OF_MEMORY
    if "torch.OutOfMemoryError" in class_names:
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(pattern in message for pattern in _OUT_OF_MEMORY_MESSAGES)


def is_device_failure(error: BaseException) -> bool:
    """Return whether a CUDA call failed; the process cannot use the device any more, whatever it computes."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error) and not is_out_of_memory(error)


def is_machine_failure(error: BaseException) -> bool:
    """Return whether the machine failed: a full or read-only disk, too many open files, or a failed device."""
    return (isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS) or is_device_failure(error)


def visible_gpus(device: str) -> list[str]:
    """Return the GPUs that workers share, as in ``CUDA_VISIBLE_DEVICES``; none if ``device`` names one device."""
    if device not in _ANY_GPU:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # Like CUDA: names after the first invalid one are ignored.
        names = (name.strip() for name in visible.split(","))
        return list(takewhile(lambda name: name and not name.startswith("-"), names))
    return [str(number) for number in range(len(list(_NVIDIA_GPUS.iterdir())) if _NVIDIA_GPUS.is_dir() else 0)]


def select_gpu(device: str, worker: int) -> None:
    """Assign one GPU to this worker, round-robin; must run before torch is imported."""
    gpus = visible_gpus(device)
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)]


def hide_gpus() -> None:
    """Hide all GPUs from this process: an opener must not use GPU memory."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def default_openers(workers: int) -> int:
    """Return the number of openers for ``workers`` on GPUs: the cores of each worker, less one, at least two."""
    return workers * max(2, usable_cores() // workers - 1)
