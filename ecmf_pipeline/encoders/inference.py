"""What every torch encoder shares: device and precision, and forward passes packed across clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ecmf_pipeline.core.console import warn
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.runner.machine import as_out_of_memory, multiplies_bf16

RunPrecision = Literal["fp32", "bf16", "fp16"]
"""The type that matrices are multiplied in."""

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MULTIPLYING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def pick_device(device: str) -> torch.device:
    """The torch device that ``device`` names.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:<n>``.

    Raises:
        ParamsError: When this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ParamsError(f"device {device!r} is not one that torch knows", "auto, cpu, cuda or cuda:<n>") from error
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ParamsError(f"device {device!r} is not on this machine", "set the device to auto or cpu")
    return picked


def best_precision(device: str) -> RunPrecision:
    """The fastest precision that a device has instructions for: bf16, else (older CUDA) fp16, else fp32."""
    picked = pick_device(device)
    if picked.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(picked) >= (8, 0) else "fp16"
    return "bf16" if picked.type == "cpu" and multiplies_bf16() else "fp32"


def _is_matrix(module: nn.Module) -> bool:
    return type(module) in _MULTIPLYING and not nn.utils.parametrize.is_parametrized(module)


class Inference:
    """Runs a frozen network in batches, on a device, in a precision; in smaller batches once memory runs out.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        batch_size: Items in one forward pass.
        precision: The type that matrices are multiplied in; sums, norms and activations stay in float32.

    Attributes:
        device: Where the network runs.
        batch_size: Items in one forward pass, as memory has allowed so far.
        precision: The same.
    """

    def __init__(self, device: str, batch_size: int, precision: RunPrecision = "fp32") -> None:
        self.device = pick_device(device)
        self.batch_size = batch_size
        self.precision = precision

    def place(self, network: nn.Module) -> nn.Module:
        """Move a frozen network to the device.

        Its large matrices are cast once: autocast alone would cast frozen weights again in every pass, which costs a
        tenth of it. All else is brought to float32, whatever type it was loaded in.
        """
        network.eval().requires_grad_(False)
        if self.precision != "fp32":
            cast = {id(module) for module in network.modules() if _is_matrix(module)}
            for module in network.modules():
                if id(module) in cast:
                    module.to(_TYPES[self.precision])
                else:
                    for parameter in module.parameters(recurse=False):
                        parameter.data = parameter.data.float()
        return network.to(self.device)

    @property
    def loaded_as(self) -> torch.dtype | Literal["auto"]:
        """The type that weights are loaded in: float32 where that is computed in, else as they stand in the file.

        A large language model's file is in a half type, and would take twice its memory on the way.
        """
        return torch.float32 if self.precision == "fp32" else "auto"

    def tensor(self, array: NDArray[Any] | torch.Tensor) -> torch.Tensor:
        """An array on the device; on its way to a GPU through pinned memory, so that nobody waits for the copy."""
        tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def batches(self, count: int, forward: Callable[[slice], torch.Tensor]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Run ``count`` items batch by batch.

        Where memory runs out the batch is halved, which is said once, and so are those after it.

        Args:
            count: How many items.
            forward: From a span of the items to their rows, (B, ...).

        Yields:
            Each span and its rows, float32 on the CPU.

        Raises:
            MemoryError: When there is too little for a single item.
        """
        start = 0
        while start < count:
            span = slice(start, min(count, start + self.batch_size))
            rows = self._try(span, forward)
            if rows is None:
                self._halve(span.stop - span.start)
                continue
            yield span, rows
            start = span.stop

    def _try(self, span: slice, forward: Callable[[slice], torch.Tensor]) -> torch.Tensor | None:
        """The rows of a span; None where memory ran out and there is something to halve."""
        try:
            with as_out_of_memory(), self._autocast():
                return forward(span).float().cpu()
        except MemoryError:
            if span.stop - span.start == 1:
                raise
            return None

    def _halve(self, size: int) -> None:
        self.batch_size = size // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        warn(f"memory ran out in a batch of {size}: going on with batches of {self.batch_size}")

    def _autocast(self) -> Any:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_TYPES[self.precision])

    @torch.inference_mode()
    def rows_of_clips(
        self, clips: Sequence[NDArray[Any]], forward: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[NDArray[np.float32]]:
        """Run items of several clips in batches that ignore where one clip ends and the next begins.

        Args:
            clips: Items of each clip, (T, ...), all of one shape and type; T may differ and be 0.
            forward: From items on the device, (B, ...), to rows (B, D).

        Returns:
            The rows of each clip, (T, D).
        """
        if not clips:
            return []
        items = torch.from_numpy(np.concatenate(clips)) if len(clips) > 1 else torch.from_numpy(clips[0])
        if not len(items):  # the width of nothing is the network's to tell
            return [forward(self.tensor(items)).float().cpu().numpy() for _ in clips]
        rows = torch.cat([rows for _, rows in self.batches(len(items), lambda span: forward(self.tensor(items[span])))])
        ends = np.cumsum([len(clip) for clip in clips])
        return [part.copy() for part in np.split(rows.numpy(), ends[:-1])]
