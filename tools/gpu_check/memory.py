"""Encode a batch that exceeds the memory of the device."""

from __future__ import annotations

import gc

import numpy as np
import torch

from ecmf_pipeline.encoders.base_config import pick_device
from ecmf_pipeline.encoders.inference import Inference
from tools.gpu_check.bench import Bench, Row


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


def release_memory(device: str) -> None:
    """Release the GPU memory of the last check: workers need it."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
