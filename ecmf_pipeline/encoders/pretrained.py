"""Frozen transformers models: loaded quietly, and completely or not at all; and which of their states are taken."""

from __future__ import annotations

import io
import json
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from transformers import AutoModel
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import read_text
from ecmf_pipeline.encoders.base_config import Layers, ModelSource, TransformersConfig, hub_cache
from ecmf_pipeline.encoders.inference import Inference, RunPrecision

Loaded = TypeVar("Loaded")

_UNUSED_PARAMETERS = ("pooler", "mask_token", "masked_spec_embed")
"""Parts that checkpoints often lack and frozen features do not need: a pooler that lacks weights is not used."""


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
    model, report = load_part(
        source,
        kind.from_pretrained,
        dtype=dtype,
        output_loading_info=True,
        **options,
    )
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
    return Inference(device, config.batch_size, cast("RunPrecision", config.resolved(device).precision))


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
