"""The groups of a store on disk: its root, one group for each fingerprint of settings, and the names beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecmf_pipeline.core.errors import MissingInput, StaleStore, StoreError
from ecmf_pipeline.core.files import fingerprint as fingerprint_of
from ecmf_pipeline.core.files import flush_folder, write_atomic

FORMAT = 2
"""Version of the format; raised when another reader could misread what is written. No other version is read."""

VERIFY_HINT = "`ecmf-pipe store verify` says what is damaged and how to mend it"


def spool_folder(root: Path, fingerprint: str) -> Path:
    """Where finished batches wait for their part: beside the store, for DVC must not take them for an output."""
    return root.parent / f".{root.name}.spool" / fingerprint


def lock_path(root: Path) -> Path:
    """What the one writer of a store holds."""
    return root.parent / f".{root.name}.lock"


def current_fingerprint(root: Path) -> str | None:
    """The fingerprint of the settings in use, or None when there is no store yet.

    Raises:
        StoreError: When it is damaged, or has another format.
    """
    if not (root / "zarr.json").is_file():
        return None
    attributes = group_attributes(root)
    version, current = attributes.get("ecmf_store"), attributes.get("current")
    if not isinstance(version, int) or not isinstance(current, str):
        raise StoreError(f"{root / 'zarr.json'} is damaged (it does not say `ecmf_store` or `current`)", VERIFY_HINT)
    if version != FORMAT:
        again = f"remove it and run `ecmf-pipe extract --modality {root.stem}`"
        raise StoreError(
            f"{root} has format {version}, this version reads {FORMAT}",
            "update ecmf-pipeline" if version > FORMAT else again,
        )
    return current


def refuse_other_format(root: Path) -> None:
    """Neither read nor write a store of another format.

    Raises:
        StoreError: When the store has another format, or is damaged.
    """
    current_fingerprint(root)


def has_fingerprint(root: Path, fingerprint: str) -> bool:
    """Whether there is a store of these settings."""
    return (root / fingerprint / "zarr.json").is_file()


def make_current(root: Path, fingerprint: str) -> None:
    """Name the store of these settings the one that later stages read.

    Raises:
        StoreError: When the store is damaged, or has another format.
    """
    refuse_other_format(root)
    attributes = {"ecmf_store": FORMAT, "current": fingerprint}
    if not (root / "zarr.json").is_file() or group_attributes(root) != attributes:
        write_group(root, attributes)


def create_settings_group(
    root: Path,
    settings: Mapping[str, Any],
    *,
    dim: int | None,
    dtype: str,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Make the group that holds the parts of these settings, unless it is there.

    Several workers may do so at once: they write the same bytes.

    Args:
        root: The ``*.zarr`` folder of the modality; groups of other settings in it stay as they are.
        settings: All that changes the numbers, as plain JSON values.
        dim: D; None where no clip has such an input, so that nobody knows it yet.
        dtype: NumPy name of the stored type.
        provenance: Where the features come from, for people to read: it has no part in the fingerprint. A group that
            is there keeps what it says.

    Returns:
        The settings' fingerprint, which is the group's name.

    Raises:
        StaleStore: When the group was made for another D or type.
        StoreError: When the store is damaged, or has another format.
    """
    refuse_other_format(root)
    fingerprint = fingerprint_of(settings)
    folder = root / fingerprint
    if has_fingerprint(root, fingerprint):
        known = settings_attributes(folder)
        if dim is None or (known["dim"], known["dtype"]) == (dim, dtype):
            return fingerprint
        if known["dim"] is not None:
            raise StaleStore(
                f"{folder} holds {known['dim']} x {known['dtype']} rows, the encoder now gives {dim} x {dtype}",
                "its settings must name what changed; remove the folder to compute it anew",
            )
    attributes = {"fingerprint": fingerprint, "settings": dict(settings), "dim": dim, "dtype": np.dtype(dtype).name}
    write_group(folder, attributes | ({"provenance": dict(provenance)} if provenance else {}))
    return fingerprint


def group_attributes(folder: Path) -> dict[str, Any]:
    """The attributes of a Zarr group.

    Raises:
        MissingInput: When there is no such group.
        StoreError: When it is damaged.
    """
    try:
        document = json.loads((folder / "zarr.json").read_bytes())
        attributes: dict[str, Any] = document["attributes"]
    except FileNotFoundError as error:
        raise MissingInput(f"{folder} is missing", "run `ecmf-pipe extract`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder / 'zarr.json'} is damaged ({error})",
            VERIFY_HINT,
        ) from error
    if not isinstance(attributes, dict):
        raise StoreError(f"{folder / 'zarr.json'} is damaged (its attributes are no table)", VERIFY_HINT)
    return attributes


def settings_attributes(folder: Path) -> dict[str, Any]:
    """The attributes of a settings group: ``settings``, ``dim`` (an int or None) and ``dtype`` stand there.

    Raises:
        MissingInput: When there is no such group.
        StoreError: When it is damaged.
    """
    attributes = group_attributes(folder)
    dim, settings = attributes.get("dim"), attributes.get("settings")
    if not isinstance(settings, dict) or not (dim is None or isinstance(dim, int)) or "dim" not in attributes:
        raise StoreError(f"{folder / 'zarr.json'} is damaged (no `settings` or no `dim`)", VERIFY_HINT)
    if not isinstance(attributes.get("provenance", {}), dict):
        raise StoreError(f"{folder / 'zarr.json'} is damaged (its `provenance` is no table)", VERIFY_HINT)
    try:
        np.dtype(attributes.get("dtype", ""))
    except TypeError as error:
        raise StoreError(f"{folder / 'zarr.json'} is damaged ({error})", VERIFY_HINT) from error
    return attributes


def write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write a Zarr group's document, whole or not at all."""
    document = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    write_atomic(folder / "zarr.json", json.dumps(document, indent=2, sort_keys=True) + "\n")
    flush_folder(folder)
    flush_folder(folder.parent)
