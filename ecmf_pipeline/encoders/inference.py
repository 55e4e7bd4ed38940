"""Load frozen networks with all their weights, and run them in batches across clips, in a given precision."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from ecmf_pipeline.core.console import warn
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import parse_json, read_text
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
"""Parts that checkpoints often lack and frozen features do not need. A pooler without weights is not used."""

_HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MATRIX_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def load_model(
    source: ModelSource, kind: Any = AutoModel, *, dtype: torch.dtype | str = torch.float32, **options: Any
) -> tuple[Any, bool]:
    """Load a model in eval mode, on the CPU.

    Args:
        source: Location of the model.
        kind: The transformers class whose weights are loaded; other weights in the file are ignored.
        dtype: Type of the weights in memory; ``auto``: as in the file.
        options: Further options of ``from_pretrained``.

    Returns:
        The model, and whether the file contains the weights of the pooler, if the model has one.

    Raises:
        ModelError: If the model cannot be loaded, if its file is a pickle that holds more than tensors, or if the file
            lacks weights: transformers would initialise them at random.
    """
    # weights_only: a pickle may hold tensors only, no code. Some models of the hub have no safetensors file.
    options = {"dtype": dtype, "output_loading_info": True, "weights_only": True, **options}
    model, report = load_pretrained(source, kind.from_pretrained, **options)
    missing = {*report["missing_keys"], *(str(key) for key in report.get("mismatched_keys", ()))}
    if needed := sorted(key for key in missing if not any(part in key for part in _UNUSED_PARAMETERS)):
        raise ModelError(
            f"model {source.name} lacks {len(needed)} weights, the first is {needed[0]}",
            "fetch the complete files of the model",
        )
    model.eval().requires_grad_(False)
    return model, not any("pooler" in key for key in missing)


_LOADING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    KeyError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
    pickle.UnpicklingError,
)
"""The errors of transformers for damaged files of a model; a config.json with invalid values raises many types."""


def load_pretrained(source: ModelSource, load: Callable[..., Loaded], **options: Any) -> Loaded:
    """Call a ``from_pretrained`` with the exact commit of ``source``. Code that comes with a model is never executed.

    Args:
        source: Location of the model.
        load: The ``from_pretrained``.
        options: Its further options.

    Raises:
        ModelError: If loading fails.
    """
    options = {"trust_remote_code": False, **options}
    if source.commit:
        options |= {"revision": source.commit, "cache_dir": hub_cache()}
    try:
        with _silenced_transformers():
            return load(source.name, **options)
    except _LOADING_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot load {source.name}: {reason}", "check the folder or hub id of the model") from error


def read_model_json(source: ModelSource, name: str) -> Any:
    """Read a JSON file of a model; return None if the model has no such file.

    Raises:
        ModelError: If the hub cannot return it, or it is not valid JSON.
    """
    path = load_pretrained(
        source,
        lambda model, **options: cached_file(model, name, _raise_exceptions_for_missing_entries=False, **options),
    )
    try:
        return parse_json(read_text(Path(path))) if path else None
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error})", "fetch the model again") from error


def build_inference(config: TransformersConfig, device: str) -> Inference:
    """Build the `Inference` for a config.

    Raises:
        ParamsError: If there is no such device.
    """
    return Inference(device, config.batch_size, config.resolved(device).precision)


def select_layers(out: Any, layers: Layers) -> torch.Tensor:
    """Return one state for each position from the output of a model, (B, T, D).

    Args:
        out: Output of the model; with hidden states, unless ``layers`` is ``last``.
        layers: ``last``, ``last4_mean``, ``last4_sum``, or the numbers of the layers to average.
    """
    if layers == "last":
        last: torch.Tensor = out.last_hidden_state
        return last
    states = out.hidden_states
    chosen = states[-4:] if isinstance(layers, str) else [states[number] for number in layers]
    stacked = torch.stack(list(chosen))  # (L, B, T, D)
    return stacked.sum(dim=0) if layers == "last4_sum" else stacked.mean(dim=0)


def check_layers(source: ModelSource, model: Any, layers: Layers) -> None:
    """Check that a model has the given layers.

    Raises:
        ModelError: If it has too few layers.
    """
    depth = int(model.config.num_hidden_layers)
    if isinstance(layers, str):
        if layers != "last" and depth < 4:
            raise ModelError(f"model {source.name} has {depth} layers, {layers} needs four", "set layers to last")
    elif absent := [number for number in layers if not -depth - 1 <= number <= depth]:
        raise ModelError(
            f"model {source.name} has {depth} layers and no hidden state {absent[0]}",
            f"set layers to numbers from 0 to {depth}",
        )


@contextmanager
def _silenced_transformers() -> Iterator[None]:
    """Silence progress bars and load reports. `load_model` raises for the defects that the reports would show.

    The progress bars of the GGUF reader cannot be switched off, so standard error is discarded unless it is a terminal.
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
    """Execution of a frozen network in batches, with a batch size that is reduced when memory runs out.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        batch_size: Items in one forward pass.
        precision: Type of matrix multiplications, not ``auto``; sums, norms and activations stay in float32.

    Attributes:
        device: Device of the network.
        batch_size: Items in one forward pass, reduced if memory ran out.
        precision: As given.
    """

    def __init__(self, device: str, batch_size: int, precision: Precision = "fp32") -> None:
        self.device = pick_device(device)
        self.batch_size = batch_size
        self.precision = precision

    def place(self, network: nn.Module) -> nn.Module:
        """Move a frozen network to the device.

        Large matrices are cast to the precision once: autocast alone would cast the frozen weights in every pass, which
        takes a tenth of its time. All other parameters become float32.
        """
        network.eval().requires_grad_(False)
        if self.precision != "fp32":
            for module in network.modules():
                if type(module) in _MATRIX_LAYERS and not nn.utils.parametrize.is_parametrized(module):
                    module.to(_HALF_DTYPES[self.precision])
                else:
                    for parameter in module.parameters(recurse=False):
                        parameter.data = parameter.data.float()
        return network.to(self.device)

    @property
    def load_dtype(self) -> torch.dtype | Literal["auto"]:
        """Type in which weights are loaded: float32 in fp32 precision, otherwise the type of the file.

        The file of a large language model has a half type; loading it as float32 would take twice its memory.
        """
        return torch.float32 if self.precision == "fp32" else "auto"

    def tensor(self, array: NDArray[Any] | torch.Tensor) -> torch.Tensor:
        """Copy an array to the device; to a GPU asynchronously, through pinned memory."""
        tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def batches(self, count: int, forward: Callable[[slice], torch.Tensor]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Run ``count`` items in batches.

        When memory runs out, the size of this and all later batches is halved, with a warning.

        Args:
            count: Number of items.
            forward: Returns the rows of a span of items, (B, ...).

        Yields:
            Each span and its rows, float32 on the CPU.

        Raises:
            MemoryError: If memory runs out with a single item.
        """
        start = 0
        while start < count:
            span = slice(start, min(count, start + self.batch_size))
            rows = self._forward_or_none(span, forward)
            if rows is None:
                self._halve_batch_size(span.stop - span.start)
                continue
            yield span, rows
            start = span.stop

    def _forward_or_none(self, span: slice, forward: Callable[[slice], torch.Tensor]) -> torch.Tensor | None:
        """Return the rows of a span; None if memory ran out and the span has more than one item."""
        half = self.precision != "fp32"
        try:
            with as_out_of_memory(), torch.autocast(self.device.type, _HALF_DTYPES.get(self.precision), enabled=half):
                return forward(span).float().cpu()
        except MemoryError:
            if span.stop - span.start == 1:
                raise
            return None

    def _halve_batch_size(self, size: int) -> None:
        self.batch_size = size // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        warn(f"out of memory with a batch of {size}; the batch size is now {self.batch_size}")

    @torch.inference_mode()
    def rows_of_clips(
        self, clips: Sequence[NDArray[Any]], forward: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[NDArray[np.float32]]:
        """Run the items of several clips in batches that may span clips.

        Args:
            clips: Items of each clip, (T, ...), all of the same shape and type; T may differ and be 0.
            forward: Maps items on the device, (B, ...), to rows (B, D).

        Returns:
            The rows of each clip, (T, D).
        """
        if not clips:
            return []
        items = torch.from_numpy(np.concatenate(clips)) if len(clips) > 1 else torch.from_numpy(clips[0])
        if not len(items):  # only the network can give the width of zero rows
            return [forward(self.tensor(items)).float().cpu().numpy() for _ in clips]
        rows = torch.cat([rows for _, rows in self.batches(len(items), lambda span: forward(self.tensor(items[span])))])
        ends = np.cumsum([len(clip) for clip in clips])
        return [part.copy() for part in np.split(rows.numpy(), ends[:-1])]
