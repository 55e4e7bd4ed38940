"""How wide an encoder's rows will be, as far as that can be told without loading or fetching anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecmf_pipeline.encoders.config import (
    BaseEncoderConfig,
    EfficientNetConfig,
    EgemapsConfig,
    MiniXceptionConfig,
    TextConfig,
    TransformersConfig,
)
from ecmf_pipeline.encoders.joined_config import JoinedConfig
from ecmf_pipeline.encoders.weights import hub_cache, hub_reference

_EMBEDDED: Mapping[type[BaseEncoderConfig], int] = {
    EfficientNetConfig: 1280,
    MiniXceptionConfig: 180,
    EgemapsConfig: 88,
}


def known_dim(config: BaseEncoderConfig) -> int | None:
    """D, the width of a feature row; None where the model's own config is not on this machine, or does not say.

    Args:
        config: The encoder's params.
    """
    if isinstance(config, JoinedConfig):
        widths = [known_dim(member) for member in config.members]
        return None if None in widths else sum(width or 0 for width in widths)
    if not isinstance(config, TransformersConfig):
        return _EMBEDDED.get(type(config))
    shape = model_shape(config)
    vision = shape.get("vision_config", shape)  # of a model with two towers
    width = shape.get("projection_dim") if getattr(config, "token_pool", "") == "projection" else None
    width = width or vision.get("hidden_size") or vision.get("d_model")
    if not isinstance(width, int):
        return None
    return width * len(config.text_columns) if isinstance(config, TextConfig) else width


def model_shape(config: TransformersConfig) -> dict[str, Any]:
    """The model's config.json, from its folder or from what the hub's client has fetched; empty where it is neither."""
    path = _config_path(config.model, config.revision)
    try:
        shape = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return shape if isinstance(shape, dict) else {}


def _config_path(model: str, revision: str) -> Path:
    if Path(model).is_dir():
        return Path(model) / "config.json"
    reference = hub_reference(model, revision)
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    return hub_cache() / f"models--{model.replace('/', '--')}" / "snapshots" / commit / "config.json"
