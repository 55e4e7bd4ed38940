"""Presets: whole choices of models under one name, as partial params documents (`<name>.yaml` beside this module).

A preset lies below the user's params.yaml: what the file says wins, key by key. Two things are taken whole, because
half of them would mean something else: an entry under ``encoders`` that names its ``type``, and ``extract.encoders``
as soon as it names any modality (one that it leaves out is not used).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ecmf_pipeline.core.errors import ParamsError

DEFAULT_PRESET = "embedded"
"""What a params.yaml that names none stands on."""

_FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """The presets there are, the default one first."""
    return sorted((path.stem for path in _FOLDER.glob("*.yaml")), key=lambda name: (name != DEFAULT_PRESET, name))


def preset_document(name: str) -> dict[str, Any]:
    """Read a preset, a partial params document.

    Raises:
        ParamsError: If there is no such preset.
    """
    if name not in preset_names():
        known = ", ".join(preset_names())
        raise ParamsError(f"`preset`: there is no preset {name!r}", f"there are {known}", keys=["preset"])
    document: dict[str, Any] = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return document


def merged_over(below: Mapping[str, Any], above: Mapping[str, Any], place: tuple[str, ...] = ()) -> dict[str, Any]:
    """A params document laid over a preset, neither changed; what is wrong with the document stays in it."""
    merged = dict(below)
    for key, value in above.items():
        known, here = below.get(key), (*place, key)
        both = isinstance(known, Mapping) and isinstance(value, Mapping)
        merged[key] = merged_over(known, value, here) if both and not _is_whole(here, value) else value  # type: ignore[arg-type]
    return merged


def _is_whole(place: tuple[str, ...], value: Mapping[str, Any]) -> bool:
    """Whether what stands at a place of params.yaml replaces the preset's instead of changing it."""
    if place == ("extract", "encoders"):
        return bool(value)
    return len(place) == 2 and place[0] == "encoders" and "type" in value
