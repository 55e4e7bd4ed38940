"""Load frozen transformers models, quietly and completely or not at all."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.config import Layers
from ecmf_pipeline.encoders.weights import ModelSource, hub_cache

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


def combine_layers(hidden_states: Sequence[torch.Tensor], layers: Layers) -> torch.Tensor:
    """One state a position out of those of all layers.

    Args:
        hidden_states: What enters the first layer, and what leaves each, (B, T, D).
        layers: ``last``, ``last4_mean``, ``last4_sum``, or the numbers of those to average.

    Returns:
        (B, T, D).
    """
    if layers == "last":
        return hidden_states[-1]
    chosen = hidden_states[-4:] if isinstance(layers, str) else [hidden_states[number] for number in layers]
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
