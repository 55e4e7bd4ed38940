"""Cores, GPUs and memory of this machine, and how it says that memory has run out."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_PROCESSOR = Path("/proc/cpuinfo")
_BF16 = {"avx512_bf16", "amx_bf16"}
_KERNEL_COUNTS = Path("/proc/vmstat")
_DRIVER = Path("/proc/driver/nvidia/gpus")
_ANY_GPU = {"auto", "cuda"}
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
_OPENCV_NO_MEMORY = -4
_SAID_BY_LIBRARIES = ("out of memory", "not enough memory", "allocate memory", "_alloc_failed", "bad_alloc")
"""Torch's allocator for the processor (on Linux, on Windows), CUDA, cuBLAS and C++ itself."""


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and a container's share of processor time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):  # no control group, or none of version 2
        return cores
    return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))


def threads_per_worker(workers: int | None) -> int:
    """Threads with which so many workers (as `RunConfig.workers`) share out the cores; one where each core has one."""
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


@contextmanager
def as_out_of_memory() -> Iterator[None]:
    """Convert out-of-memory errors of torch, CUDA, OpenCV and the system to MemoryError.

    Raises:
        MemoryError: With what the library said.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or not _is_out_of_memory(error):
            raise
        raise MemoryError(str(error).partition("\n")[0].strip()) from error


def _is_out_of_memory(error: Exception) -> bool:
    """By names and words: no library is loaded for a type that only one of its own errors can have."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    if "cv2.error" in kinds:
        return getattr(error, "code", None) == _OPENCV_NO_MEMORY
    if "torch.OutOfMemoryError" in kinds:
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _SAID_BY_LIBRARIES)


def visible_gpus(device: str) -> list[str]:
    """The GPUs that workers share out, as ``CUDA_VISIBLE_DEVICES`` names them; none where a device is named."""
    if device not in _ANY_GPU:
        return []
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is not None:
        # As CUDA reads it: what follows the first one that cannot be is not seen.
        return list(takewhile(lambda name: name and not name.startswith("-"), (n.strip() for n in asked.split(","))))
    return [str(number) for number in range(len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 0)]


def see_one_gpu(device: str, worker: int) -> None:
    """Let this worker process see one GPU, in turn; must run before torch is loaded."""
    gpus = visible_gpus(device)
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)]


def see_no_gpu() -> None:
    """Let this process see no GPU: one that only opens clips must not take room on it."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def openers_for(workers: int) -> int:
    """How many openers feed so many workers on GPUs: the cores shared out among them, less one each, at least two."""
    return workers * max(2, usable_cores() // workers - 1)
