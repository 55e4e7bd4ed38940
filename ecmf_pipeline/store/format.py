"""The groups of a store on disk: its root, one group for each fingerprint of settings, and the names beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecmf_pipeline.errors import MissingInput, StaleStore, StoreError
from ecmf_pipeline.files import fingerprint as fingerprint_of
from ecmf_pipeline.files import write_atomic

FORMAT = 2
"""Version of the format; raised when an older reader could misread what is written."""


def spool_folder(root: Path, fingerprint: str) -> Path:
    """Where finished batches wait for their part: beside the store, for DVC must not take them for an output."""
    return root.parent / f".{root.name}.spool" / fingerprint


def lock_path(root: Path) -> Path:
    """What the one writer of a store holds."""
    return root.parent / f".{root.name}.lock"


def current_fingerprint(root: Path) -> str | None:
    """The fingerprint of the settings in use, or None when there is no store yet.

    Raises:
        StoreError: When the store was written by a later version.
    """
    if not (root / "zarr.json").is_file():
        return None
    attributes = group_attributes(root)
    if int(attributes.get("ecmf_store", 0)) > FORMAT:
        raise StoreError(
            f"{root} has format {attributes['ecmf_store']}, this version reads up to {FORMAT}",
            "update ecmf-pipeline",
        )
    return str(attributes["current"])


def has_fingerprint(root: Path, fingerprint: str) -> bool:
    """Whether there is a store of these settings."""
    return (root / fingerprint / "zarr.json").is_file()


def make_current(root: Path, fingerprint: str) -> None:
    """Name the store of these settings the one that later stages read."""
    attributes = {"ecmf_store": FORMAT, "current": fingerprint}
    if not (root / "zarr.json").is_file() or group_attributes(root) != attributes:
        write_group(root, attributes)


def create_settings_group(root: Path, settings: Mapping[str, Any], *, dim: int | None, dtype: str) -> str:
    """Make the group that holds the parts of these settings, unless it is there.

    Several workers may do so at once: they write the same bytes.

    Args:
        root: The ``*.zarr`` folder of the modality; groups of other settings in it stay as they are.
        settings: All that changes the numbers, as plain JSON values.
        dim: D; None where no clip has such an input, so that nobody knows it yet.
        dtype: NumPy name of the stored type.

    Returns:
        The settings' fingerprint, which is the group's name.

    Raises:
        StaleStore: When the group was made for another D or type.
    """
    fingerprint = fingerprint_of(settings)
    folder = root / fingerprint
    if has_fingerprint(root, fingerprint):
        known = group_attributes(folder)
        if dim is None or (known["dim"], known["dtype"]) == (dim, dtype):
            return fingerprint
        if known["dim"] is not None:
            raise StaleStore(
                f"{folder} holds {known['dim']} x {known['dtype']} rows, the encoder now gives {dim} x {dtype}",
                "its settings must name what changed; remove the folder to compute it anew",
            )
    attributes = {"fingerprint": fingerprint, "settings": dict(settings), "dim": dim, "dtype": np.dtype(dtype).name}
    write_group(folder, attributes)
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
            "`ecmf-pipe store verify` says what else is; remove that folder and extract again",
        ) from error
    return attributes


def write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write a Zarr group's document, whole or not at all."""
    document = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    write_atomic(folder / "zarr.json", json.dumps(document, indent=2, sort_keys=True) + "\n")
