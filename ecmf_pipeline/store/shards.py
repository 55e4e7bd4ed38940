"""Stores of shards, and how they are merged into the store of the modality.

A shard writes a complete store of its own::

    data/features/.shards/3-of-8/face.zarr/     with its spool and its lock beside it, as of any store
    data/features/.shards/3-of-8/face.csv       its quarantine table

A merge renames the parts into the store of the modality, with new numbers. Rows that it holds already, of the same clip
and digest, are left out. It may be killed at any moment: what was moved is not in the shard any more.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import compress
from pathlib import Path

import numpy as np

from ecmf_pipeline.core.errors import StoreBusy, StoreError
from ecmf_pipeline.core.files import exclusive_lock, flush_folder
from ecmf_pipeline.core.shards import SHARDS, Shard, remove_if_empty, shard_folders
from ecmf_pipeline.runner.step import leftover_batches
from ecmf_pipeline.store.features import FeatureStore
from ecmf_pipeline.store.format import (
    array_names,
    create_settings_group,
    current_fingerprint,
    has_fingerprint,
    lock_path,
    make_current,
    part_names,
    part_number,
    read_array,
    read_parts,
    settings_attributes,
    spool_folder,
    write_part,
)
from ecmf_pipeline.store.kept import KeptParts
from ecmf_pipeline.store.writer import StoreWriter


def shards_folder(root: Path) -> Path:
    """Return the folder of all shards of a store."""
    return root.parent / SHARDS


def shard_root(root: Path, shard: Shard) -> Path:
    """Return the store of a shard of the store ``root``."""
    return shards_folder(root) / shard.name / root.name


def shard_roots(root: Path) -> list[Path]:
    """Return the stores of all shards that are not merged, also if they have nothing but a quarantine table yet."""
    folders = [folder / root.name for folder in shard_folders(shards_folder(root))]
    return [path for path in folders if any(found.exists() for found in (path, lock_path(path), shard_table(path)))]


def shard_table(root: Path) -> Path:
    """Return the quarantine table of a shard, beside its store."""
    return root.with_suffix(".csv")


def shard_stores(root: Path, fingerprint: str) -> Iterator[FeatureStore]:
    """Yield the features of all shards that are not merged."""
    for path in shard_roots(root):
        if has_fingerprint(path, fingerprint):
            yield FeatureStore(path, fingerprint)


def recover_shards(root: Path, fingerprint: str) -> None:
    """Seal the finished batches of shards that were killed; the caller holds the lock under which shards start."""
    for path in shard_roots(root):
        if leftover_batches(spool_folder(path, fingerprint)):
            with suppress(StoreBusy), StoreWriter(path, fingerprint):  # busy: the shard is running
                pass


def merge_shards(writer: StoreWriter) -> tuple[int, list[Path]]:
    """Move the parts of all shards into a store.

    Args:
        writer: The writer of the store, which holds its lock. The caller holds the lock under which shards start.

    Returns:
        The number of added rows, and the stores of the shards, to be removed by `remove_shard`.

    Raises:
        StoreBusy: If a shard is running; nothing is changed.
        StoreError: If a part of a shard is damaged.
    """
    roots = shard_roots(writer.root)
    for path in roots:
        with exclusive_lock(lock_path(path), str(path)):
            pass  # no shard is running, and none can start
    added = 0
    for path in roots:
        with StoreWriter(path, writer.fingerprint) as shard:  # seals its finished batches
            added += _move_parts(shard, writer)
    return added, roots


def remove_shard(root: Path, fingerprint: str) -> None:
    """Remove a merged shard; features of other settings stay.

    Args:
        root: The store of the shard.
        fingerprint: Fingerprint of the merged features.
    """
    shard_table(root).unlink(missing_ok=True)
    shutil.rmtree(root / fingerprint, ignore_errors=True)
    unfinished = spool_folder(root, fingerprint).parent.glob("*/*.batch")  # of other settings
    if not any(path.is_dir() for path in root.glob("*")) and not any(unfinished):
        shutil.rmtree(root, ignore_errors=True)
        lock_path(root).unlink(missing_ok=True)
    with suppress(OSError):  # other modalities
        root.parent.rmdir()
    remove_if_empty(root.parent.parent)


def _move_parts(shard: StoreWriter, writer: StoreWriter) -> int:
    """Move the parts of a shard that have new rows into the store, and return the number of new rows."""
    source, target = shard.folder, writer.folder
    if not has_fingerprint(shard.root, shard.fingerprint):
        return 0
    parts = read_parts(source, shard.fingerprint)
    for error in parts.damaged.values():
        raise StoreError(
            f"a shard cannot be merged: {error.message}",
            "move its damaged parts out of it; the next run computes their clips again",
            command=f"ecmf-pipe store verify --mend {shard.root}",
        )
    attributes = settings_attributes(source)
    create_settings_group(
        writer.root,
        attributes["settings"],
        dim=attributes["dim"],
        dtype=attributes["dtype"],
        provenance=attributes.get("provenance"),
    )
    present = read_parts(target, writer.fingerprint).intact
    held = {entry for part in present.values() for entry in zip(part.clip_id, part.digest, strict=True)}
    number = 1 + max(map(part_number, part_names(target)), default=-1)
    added, moved = 0, []
    writer.spool.folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.intact.items():
        entries = list(zip(part.clip_id, part.digest, strict=True))
        keep = [entry not in held for entry in entries]
        if all(keep):
            moved.append(f"part-{number:06d}-{name.rpartition('-')[2]}")
            (source / name).rename(target / moved[-1])
        elif any(keep):
            rows = np.repeat(keep, part.length)
            arrays = {
                array: read_array(source / name / array, part.arrays.get(array))[rows]
                for array in array_names(source / name)
            }
            kept = replace(
                part,
                clip_id=list(compress(part.clip_id, keep)),
                digest=list(compress(part.digest, keep)),
                length=list(compress(part.length, keep)),
                supersedes=(),
            )
            moved.append(write_part(target, number, kept, arrays, staging=writer.spool.folder))
        number += any(keep)
        added += sum(keep)
        held.update(entries)
    flush_folder(target)
    KeptParts(target).keep(moved)
    if added and current_fingerprint(writer.root) is None:
        make_current(writer.root, writer.fingerprint)
    return added
