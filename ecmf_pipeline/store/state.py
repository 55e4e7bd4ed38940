"""Summarise a store from its attributes alone: its contents, and the state of each row."""

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
    current_fingerprints,
    part_names,
    read_parts,
    settings_attributes,
    spool_folder,
)

_FINGERPRINT = re.compile(r"[0-9a-f]{12}")

_HASH = re.compile(r"\b[0-9a-f]{32,}\b")

InputDigests = Mapping[str, str | None]
"""Digest of the current input of each clip of the manifest; None if the clip has no input of this modality."""

DigestLookup = Callable[[Mapping[str, Any], Mapping[str, str]], InputDigests | None]
"""Returns the digests of the current inputs, or None if there is no manifest.

Its arguments are the settings of the store and the newest stored digest of each clip.
"""


class RowState(StrEnum):
    """State of a stored row with respect to the manifest."""

    COUNTS = "counts"
    """Computed from the current input of the clip; without a manifest, from any input."""
    DUPLICATE = "duplicate"
    """A later entry has the same clip and digest."""
    REPLACED = "replaced"
    """Computed from an earlier input; the current input has features too."""
    OUTDATED = "outdated"
    """Computed from an earlier input; the current input has no features (yet)."""
    ABSENT = "absent"
    """The clip is no longer in the manifest."""


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """Summary of one settings group: the features of one modality under the settings of one encoder.

    Attributes:
        root: The store.
        fingerprint: Fingerprint of the settings.
        encoder: Short name of the encoder.
        is_current: Whether later stages read this group by default.
        dim: D; None if no clip had an input of this modality, or the settings are damaged.
        dtype: The stored type; empty if the settings are damaged.
        clips: Number of clips with features.
        rows: Number of rows of values: one per frame, or one per clip.
        parts: Number of parts that count.
        damaged: Number of parts with unreadable attributes.
        bytes: Size on disk.
        present: Number of clips with features of their current input; None without a manifest.
        wanted: Number of clips of the manifest that have an input of this modality; None without a manifest.
        leftovers: Number of finished batches that are not yet in a part.
        provenance: Origin of the features; empty if not recorded.
        versions: Combinations of library versions that computed the rows; an empty one if some are unknown.
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
    """Return None: the `DigestLookup` of a store without a manifest."""


def list_store(root: Path, digest_lookup: DigestLookup = no_manifest) -> Iterator[GroupSummary]:
    """Summarise each settings group of a store; damaged groups are included.

    Raises:
        MissingInput: If there is no such folder.
    """
    if not root.is_dir():
        raise MissingInput(
            f"{root} does not exist", "give the path of a feature store, such as data/features/audio.zarr"
        )
    try:
        current = current_fingerprints(root)
    except StoreError:
        current = []
    for fingerprint in settings_groups(root):
        yield _summarise(root, fingerprint, current, digest_lookup)


def _summarise(root: Path, fingerprint: str, current: Sequence[str], digest_lookup: DigestLookup) -> GroupSummary:
    folder = root / fingerprint
    try:
        attributes = settings_attributes(folder)
    except (StoreError, MissingInput):
        attributes = {"settings": {}, "dim": None, "dtype": ""}
    parts = read_parts(folder, fingerprint)
    newest = parts.newest()
    digests = digest_lookup(attributes["settings"], newest)
    states = row_states(parts.intact, digests)
    return GroupSummary(
        root,
        fingerprint,
        encoder_name(attributes["settings"]),
        fingerprint in current,
        attributes["dim"],
        attributes["dtype"],
        len(newest),
        sum(sum(part.length) for part in parts.intact.values()),
        len(parts.intact),
        len(parts.damaged),
        folder_size(folder),
        None if digests is None else sum(part.count(RowState.COUNTS) for part in states.values()),
        None if digests is None else sum(digest is not None for digest in digests.values()),
        len(leftover_batches(spool_folder(root, fingerprint))),
        attributes.get("provenance", {}),
        parts.versions(),
    )


def encoder_name(settings: Mapping[str, Any]) -> str:
    """Return a short name of the encoder in the settings of a store.

    Returns:
        The name of the model on the hub, the name of imported features, or the type of the encoder; ``unknown`` if the
        settings do not describe an encoder.
    """
    encoder = settings.get("encoder")
    if not isinstance(encoder, Mapping):
        return "unknown"
    weights = encoder.get("weights")
    hub = weights.get("model") if isinstance(weights, Mapping) else None
    if isinstance(hub, str):
        return hub.rpartition("/")[2]
    if encoder.get("name"):
        return f"{encoder['name']} (imported)"
    return str(encoder.get("type", "unknown"))


def format_provenance(provenance: Mapping[str, Any]) -> str:
    """Format the provenance of features as one line: the model first, hashes shortened, library versions omitted.

    Args:
        provenance: As passed to `create_settings_group`.
    """
    first = {key: provenance[key] for key in ("model", "revision", "commit") if key in provenance}
    shown = first | {key: value for key, value in provenance.items() if key != "versions"}
    return ", ".join(f"{key} {text}" for key, text in _flatten(shown))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{prefix}{key}", _HASH.sub(lambda match: match.group()[:12], text)


def row_states(parts: Mapping[str, PartAttributes], digests: InputDigests | None) -> dict[str, list[RowState]]:
    """Return the state of each entry of some parts, by the name of the part.

    Of entries with the same clip and digest, the last counts. Dropping the others therefore changes neither the newest
    row of a clip nor the set of stored inputs.

    Args:
        parts: Attributes of each part, in order.
        digests: Digests of the current inputs; None without a manifest.
    """
    last = {
        entry: (name, position)
        for name, part in parts.items()
        for position, entry in enumerate(zip(part.clip_id, part.digest, strict=True))
    }
    return {
        name: [
            _entry_state(entry, last, digests) if last[entry] == (name, position) else RowState.DUPLICATE
            for position, entry in enumerate(zip(part.clip_id, part.digest, strict=True))
        ]
        for name, part in parts.items()
    }


def _entry_state(entry: tuple[str, str], stored: Collection[tuple[str, str]], digests: InputDigests | None) -> RowState:
    clip_id, digest = entry
    if digests is None:
        return RowState.COUNTS
    if clip_id not in digests:
        return RowState.ABSENT
    current = digests[clip_id]
    if current == digest:
        return RowState.COUNTS
    return RowState.REPLACED if current is not None and (clip_id, current) in stored else RowState.OUTDATED


def settings_groups(root: Path) -> Iterator[str]:
    """Yield the names of the settings groups of a store.

    A settings group is a folder that is named by a fingerprint and holds a group document or parts.
    """
    for folder in sorted(root.iterdir()):
        if _FINGERPRINT.fullmatch(folder.name) and ((folder / "zarr.json").is_file() or part_names(folder)):
            yield folder.name


def folder_size(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
