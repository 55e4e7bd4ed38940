"""`ecmf-pipe encoders --list`: the presets, and what params.yaml makes of one."""

from __future__ import annotations

from collections.abc import Iterator

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.console import say
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig, TransformersConfig
from ecmf_pipeline.encoders.config import ImportedConfig
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.settings.params import Params, load_params, preset_params
from ecmf_pipeline.settings.presets import preset_names

_SHOWN = ("layers", "token_pool", "special_tokens", "frames", "frames_per_row", "inputs", "precision")
"""What is told of an encoder's params, as far as it has them."""

_Row = tuple[str, str, str, str, str]
"""Modality, entry, model, width, options."""


def run() -> None:
    """Print each preset's models by modality, then those in use.

    Raises:
        ParamsError: When params.yaml cannot be read.
    """
    params = load_params()
    tables = {
        f"preset {name}" + (" (that of params.yaml)" if name == params.preset else ""): list(_rows(preset_params(name)))
        for name in preset_names()
    }
    tables[f"in use: {paths.PARAMS} over the preset {params.preset}"] = list(_rows(params))
    widths = [max(len(row[column]) for rows in tables.values() for row in rows) for column in range(4)]
    for head, rows in tables.items():
        say(head)
        for *cells, options in rows:
            say(
                "  "
                + "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), options]).rstrip()
            )
    used = {name for modality in params.extract.encoders for name in params.extract.encoders[modality]}
    if others := [name for name in params.encoders if name not in used]:
        say(f"  entries that serve no modality: {', '.join(others)}")


def _rows(params: Params) -> Iterator[_Row]:
    for modality in Modality:
        if modality not in params.extract.encoders:
            yield modality.value, "-", "not used", "", ""
            continue
        for name in params.extract.encoders[modality]:
            encoder = params.encoders[name].named(name)
            width = encoder.known_dim()
            yield modality.value, name, _model(encoder), "?-d" if width is None else f"{width}-d", _options(encoder)
    yield "llm", "", _llm(params.llm), "", f"prompt {params.llm.prompt}, {params.llm.dtype}"


def _model(encoder: BaseEncoderConfig) -> str:
    if isinstance(encoder, TransformersConfig):
        return encoder.model if encoder.revision == "main" else f"{encoder.model}@{encoder.revision[:12]}"
    return "imported features" if isinstance(encoder, ImportedConfig) else str(getattr(encoder, "type", ""))


def _options(encoder: BaseEncoderConfig) -> str:
    """What the encoder's params say, in words; what they leave open is left out."""
    options = {name: getattr(encoder, name) for name in _SHOWN if getattr(encoder, name, None) is not None}
    words = []
    for name, value in options.items():
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words.append(f"{name} {text.lower() if isinstance(value, bool) else text}")
    return ", ".join(words)


def _llm(config: LlmConfig) -> str:
    return f"{config.model}/{config.gguf_file}" if config.gguf_file else config.model
