"""Load frozen networks, completely or not at all, and run them: precision, forward passes packed across clips."""

from __future__ import annotations

import io
import json
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from ecmf_pipeline.core.console import warn
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import read_text
from ecmf_pipeline.encoders.base_config import (
    Layers,
    ModelSource,
    Precision,
    TransformersConfig,
    hub_cache,
    pick_device,
)
from ecmf_pipeline.runner.machine import as_out_of_memory

Loaded = TypeVar("Loaded")

_UNUSED_PARAMETERS = ("pooler", "mask_token", "masked_spec_embed")
"""Parts that checkpoints often lack and frozen features do not need: a pooler that lacks weights is not used."""

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MULTIPLYING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def load_model(
    source: ModelSource, kind: Any = AutoModel, *, dtype: torch.dtype | str = torch.float32, **options: Any
) -> tuple[Any, bool]:
    """Load a model in eval mode, on the CPU.

    Args:
        source: Where it is loaded from.
        kind: The transformers class whose weights are loaded; the others in the file are left there.
        dtype: The type that its weights are held in; ``auto``: as the file holds them.
        options: More that its ``from_pretrained`` is to know.

    Returns:
        The model, and whether its pooler, if it has one, was trained.

    Raises:
        ModelError: When it cannot be loaded, or when weights it needs are missing from the file: transformers would
            draw them at random.
    """
    model, report = load_part(source, kind.from_pretrained, dtype=dtype, output_loading_info=True, **options)
    missing = {*report["missing_keys"], *(str(key) for key in report.get("mismatched_keys", ()))}
    if needed := sorted(key for key in missing if not any(part in key for part in _UNUSED_PARAMETERS)):
        raise ModelError(f"{source.name} lacks {len(needed)} weights, {needed[0]} first", "the files are incomplete")
    model.eval().requires_grad_(False)
    return model, not any("pooler" in key for key in missing)


def load_part(source: ModelSource, load: Callable[..., Loaded], **options: Any) -> Loaded:
    """Call a ``from_pretrained`` for the very commit of ``source``; no code that comes with a model is run.

    Args:
        source: Where it is loaded from.
        load: The ``from_pretrained``.
        options: More that it is to know.

    Raises:
        ModelError: When it cannot be loaded.
    """
    where: dict[str, Any] = {"trust_remote_code": False, **options}
    if source.commit:
        where |= {"revision": source.commit, "cache_dir": hub_cache()}
    try:
        with _quiet():
            return load(source.name, **where)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot load {source.name}: {reason}", "check the model's folder or hub id") from error


def read_json_of_model(source: ModelSource, name: str) -> Any:
    """Read a JSON file of a model; None where it has none of that name.

    Raises:
        ModelError: When the hub cannot be asked for it.
    """
    found = load_part(
        source, lambda model, **where: cached_file(model, name, _raise_exceptions_for_missing_entries=False, **where)
    )
    return json.loads(read_text(Path(found))) if found else None


def inference_of(config: TransformersConfig, device: str) -> Inference:
    """Where and how the network of a config runs.

    Raises:
        ParamsError: When there is no such device.
    """
    return Inference(device, config.batch_size, config.resolved(device).precision)


def take_layers(out: Any, layers: Layers) -> torch.Tensor:
    """One state a position out of what a model returns, (B, T, D).

    Args:
        out: The model's output; unless ``layers`` is ``last``, asked for with ``output_hidden_states``.
        layers: ``last``, ``last4_mean``, ``last4_sum``, or the numbers of those to average.
    """
    if layers == "last":
        last: torch.Tensor = out.last_hidden_state
        return last
    states = out.hidden_states
    chosen = states[-4:] if isinstance(layers, str) else [states[number] for number in layers]
    stacked = torch.stack(list(chosen))  # (L, B, T, D)
    return stacked.sum(dim=0) if layers == "last4_sum" else stacked.mean(dim=0)


def check_layers(source: ModelSource, model: Any, layers: Layers) -> None:
    """Make sure that a model is deep enough for ``layers``.

    Raises:
        ModelError: When it has fewer layers than are asked for.
    """
    depth = int(model.config.num_hidden_layers)
    if isinstance(layers, str):
        if layers != "last" and depth < 4:
            raise ModelError(f"{source.name} has {depth} layers: {layers} needs four", "set layers to last")
    elif wrong := [number for number in layers if not -depth - 1 <= number <= depth]:
        raise ModelError(f"{source.name} has {depth} layers: there is no hidden state {wrong[0]}", f"0 to {depth}")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or load reports: what a report would warn of is checked here, and is an error.

    The bars of the GGUF reader have no switch: standard error is kept back unless it is a terminal.
    """
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


class Inference:
    """Runs a frozen network in batches, on a device, in a precision; in smaller batches once memory runs out.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        batch_size: Items in one forward pass.
        precision: The type that matrices are multiplied in, no longer ``auto``; sums, norms and activations stay in
            float32.

    Attributes:
        device: Where the network runs.
        batch_size: Items in one forward pass, as memory has allowed so far.
        precision: The same.
    """

    def __init__(self, device: str, batch_size: int, precision: Precision = "fp32") -> None:
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
            for module in network.modules():
                if type(module) in _MULTIPLYING and not nn.utils.parametrize.is_parametrized(module):
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
        half = self.precision != "fp32"
        try:
            with as_out_of_memory(), torch.autocast(self.device.type, _TYPES.get(self.precision), enabled=half):
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
