"""Sharing out GPUs, and the cores beside them, without loading torch in the process that only hands out the work."""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path

from ecmf_pipeline.runner.machine import usable_cores

_DRIVER = Path("/proc/driver/nvidia/gpus")
_ANY_GPU = {"auto", "cuda"}


def visible_gpus(device: str) -> list[str]:
    """The GPUs that workers share out, as ``CUDA_VISIBLE_DEVICES`` names them.

    Args:
        device: ``extract.device``; one that names the CPU or a certain GPU leaves nothing to share out.
    """
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
