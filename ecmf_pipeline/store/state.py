"""What a store holds and which of its rows count, from its attributes alone: for `verify`, `compact` and `ls`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.errors import MissingInput, StoreError
from ecmf_pipeline.runner.step import leftover_batches
from ecmf_pipeline.store.format import (
    PartAttributes,
    current_fingerprint,
    part_names,
    read_parts,
    settings_attributes,
    spool_folder,
)

_FINGERPRINT = re.compile(r"[0-9a-f]{12}")

_HASH = re.compile(r"\b[0-9a-f]{32,}\b")

Digests = Mapping[str, str | None]
"""Of each clip of the manifest, the digest of its present input; None where it has no such input."""

Present = Callable[[Mapping[str, Any], Mapping[str, str]], Digests | None]
"""Tells the present digests from the settings of a store and the newest digest of each clip that it holds; None where
no manifest tells."""


class RowState(StrEnum):
    """What the row of a clip is to the manifest."""

    COUNTS = "counts"
    """Features of the clip's present input; without a manifest, of any."""
    DUPLICATE = "duplicate"
    """The same clip and digest stand again further on."""
    REPLACED = "replaced"
    """Features of another input than the present one, of which there are features too."""
    OUTDATED = "outdated"
    """Features of another input than the present one, of which there are none (yet)."""
    ABSENT = "absent"
    """Features of a clip that the manifest no longer has."""


@dataclass(frozen=True, slots=True)
class Holding:
    """The features of one modality under one encoder's settings.

    Attributes:
        root: The store.
        fingerprint: Of the settings.
        encoder: What made them.
        is_current: Whether later stages read them unless params say otherwise.
        dim: D; None where no clip had such an input, or the settings are damaged.
        dtype: The stored type; empty where the settings are damaged.
        clips: Clips that have features.
        rows: Rows of values: frames, or one a clip.
        parts: Parts that count.
        damaged: Parts whose attributes cannot be read.
        bytes: On disk.
        present: Clips that have features of their present input; None where there is no manifest.
        wanted: Clips of the manifest that have such an input; None where there is no manifest.
        leftovers: Finished batches that stand in no part yet.
        provenance: Where the features come from; empty where the store does not say.
        versions: Combinations of library versions that computed the rows; an empty one where some are unknown.
    """

    root: Path
    fingerprint: str
    encoder: str
    is_current: bool
    dim: int | None
    dtype: str
    clips: int
    rows: int
    parts: int
    damaged: int
    bytes: int
    present: int | None
    wanted: int | None
    leftovers: int
    provenance: Mapping[str, Any]
    versions: Sequence[Mapping[str, str]]


def no_manifest(_settings: Mapping[str, Any], _newest: Mapping[str, str]) -> None:
    """What is present where there is no manifest."""


def list_store(root: Path, present: Present = no_manifest) -> Iterator[Holding]:
    """Tell what each settings group of a store holds; damaged ones hinder nothing.

    Raises:
        MissingInput: When there is no such folder.
    """
    if not root.is_dir():
        raise MissingInput(f"{root} is missing", "name a feature store, such as data/features/audio.zarr")
    try:
        current = current_fingerprint(root)
    except StoreError:
        current = None
    for fingerprint in settings_groups(root):
        yield _holding(root, fingerprint, current, present)


def _holding(root: Path, fingerprint: str, current: str | None, present: Present) -> Holding:
    folder = root / fingerprint
    try:
        attributes = settings_attributes(folder)
    except (StoreError, MissingInput):
        attributes = {"settings": {}, "dim": None, "dtype": ""}
    parts = read_parts(folder, fingerprint)
    newest = parts.newest()
    digests = present(attributes["settings"], newest)
    states = row_states(parts.sound, digests)
    return Holding(
        root,
        fingerprint,
        encoder_name(attributes["settings"]),
        fingerprint == current,
        attributes["dim"],
        attributes["dtype"],
        len(newest),
        sum(sum(part.length) for part in parts.sound.values()),
        len(parts.sound),
        len(parts.damaged),
        size_of(folder),
        None if digests is None else sum(part.count(RowState.COUNTS) for part in states.values()),
        None if digests is None else sum(digest is not None for digest in digests.values()),
        len(leftover_batches(spool_folder(root, fingerprint))),
        attributes.get("provenance", {}),
        parts.versions(),
    )


def encoder_name(settings: Mapping[str, Any]) -> str:
    """A short name of the encoder that a store's settings describe.

    Returns:
        The model's name on the hub, that of imported features, else the encoder's type; all of them where several
        encoders are joined; ``unknown`` where the settings do not say.
    """
    encoder = settings.get("encoder")
    if not isinstance(encoder, Mapping):
        return "unknown"
    if isinstance(members := encoder.get("members"), Sequence):
        return " + ".join(encoder_name({"encoder": member}) for member in members)
    weights = encoder.get("weights")
    hub = weights.get("model") if isinstance(weights, Mapping) else None
    if isinstance(hub, str):
        return hub.rpartition("/")[2]
    if encoder.get("name"):
        return f"{encoder['name']} (imported)"
    return str(encoder.get("type", "unknown"))


def in_words(provenance: Mapping[str, Any]) -> str:
    """Where features come from, on one line: the model first, hashes cut short, versions left out.

    Args:
        provenance: Of the store, as `create_settings_group` was given it; of encoders side by side, one after another.
    """
    if members := provenance.get("members"):
        return " + ".join(in_words(member) for member in members)
    first = {key: provenance[key] for key in ("model", "revision", "commit") if key in provenance}
    shown = first | {key: value for key, value in provenance.items() if key != "versions"}
    return ", ".join(f"{key} {text}" for key, text in _flattened(shown))


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{prefix}{key}", _HASH.sub(lambda found: found.group()[:12], text)


def row_states(parts: Mapping[str, PartAttributes], digests: Digests | None) -> dict[str, list[RowState]]:
    """Tell for every entry of some parts what it is to the manifest.

    Of entries that are the same in clip and digest the last counts, so that taking the others away changes neither
    which row of a clip is the newest, nor what is held.
    """
    last = {
        entry: (name, place)
        for name, part in parts.items()
        for place, entry in enumerate(zip(part.clip_id, part.digest, strict=True))
    }
    return {
        name: [
            _state_of(entry, last, digests) if last[entry] == (name, place) else RowState.DUPLICATE
            for place, entry in enumerate(zip(part.clip_id, part.digest, strict=True))
        ]
        for name, part in parts.items()
    }


def _state_of(entry: tuple[str, str], held: Collection[tuple[str, str]], digests: Digests | None) -> RowState:
    clip_id, digest = entry
    if digests is None:
        return RowState.COUNTS
    if clip_id not in digests:
        return RowState.ABSENT
    present = digests[clip_id]
    if present == digest:
        return RowState.COUNTS
    return RowState.REPLACED if present is not None and (clip_id, present) in held else RowState.OUTDATED


def settings_groups(root: Path) -> Iterator[str]:
    """The names of a store's settings groups: folders that hold such a group's document, or parts.

    What has no fingerprint for a name is no settings group, whatever it holds: nothing ever reads it.
    """
    for folder in sorted(root.iterdir()):
        if _FINGERPRINT.fullmatch(folder.name) and ((folder / "zarr.json").is_file() or part_names(folder)):
            yield folder.name


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
