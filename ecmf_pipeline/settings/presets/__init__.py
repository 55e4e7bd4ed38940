"""Presets: named choices of models, stored as partial params documents (`<name>.yaml` in this folder).

params.yaml is merged over its preset key by key. Two values replace the preset's value as a whole, since a merge would
change their meaning: an entry of ``encoders`` with a ``type``, and ``extract.encoders`` unless it is empty (a modality
that it does not list is not used). A ``revision`` of the preset is the commit of its ``model``, so it is dropped if
params.yaml sets another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.documents import parse_yaml
from ecmf_pipeline.core.errors import ParamsError

DEFAULT_PRESET = "embedded"
"""Preset of a params.yaml without the key ``preset``."""

_FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """Return the names of all presets, the default preset first."""
    return sorted((path.stem for path in _FOLDER.glob("*.yaml")), key=lambda name: (name != DEFAULT_PRESET, name))


def preset_document(name: str) -> dict[str, Any]:
    """Read a preset, which is a partial params document.

    Raises:
        ParamsError: If there is no such preset.
    """
    if name not in preset_names():
        names = ", ".join(preset_names())
        raise ParamsError(f"preset: there is no preset {name!r}", f"use one of {names}", keys=["preset"])
    document: dict[str, Any] = parse_yaml((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return document


def merge_over_preset(
    below: Mapping[str, Any], above: Mapping[str, Any], place: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return ``above`` merged over ``below``; neither is changed, and ``above`` is not validated.

    Args:
        below: The preset.
        above: The params document.
        place: Keys that lead to both.
    """
    merged = dict(below)
    if above.get("model", below.get("model")) != below.get("model"):
        merged.pop("revision", None)
    for key, value in above.items():
        base, key_path = below.get(key), (*place, key)
        if isinstance(base, Mapping) and isinstance(value, Mapping) and not _replaces_preset(key_path, value):
            merged[key] = merge_over_preset(base, value, key_path)
        else:
            merged[key] = value
    return merged


def _replaces_preset(place: tuple[str, ...], value: Mapping[str, Any]) -> bool:
    """Return whether a value of params.yaml replaces the preset's value instead of being merged with it."""
    if place == ("extract", "encoders"):
        return bool(value)
    return len(place) == 2 and place[0] == "encoders" and "type" in value
