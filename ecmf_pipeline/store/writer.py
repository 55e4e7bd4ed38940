"""Write a store: workers keep batches of rows, one writer at a time makes parts of them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ecmf_pipeline.core.errors import StoreError
from ecmf_pipeline.runner.step import PartWriter, Spool
from ecmf_pipeline.store.features import FeatureStore
from ecmf_pipeline.store.format import (
    FeatureRow,
    PartAttributes,
    all_versions,
    current_fingerprint,
    has_fingerprint,
    lock_path,
    make_current,
    part_names,
    part_number,
    spool_folder,
    write_part,
)


class StoreWriter(PartWriter[FeatureRow]):
    """The one writer of a store; see `PartWriter`.

    Args:
        root: The ``*.zarr`` folder of the modality.
        fingerprint: Of the settings written.

    Raises:
        StoreBusy: On entering, when another run writes to the store.
        StoreError: On entering, when the store is damaged, or has another format.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
        spool = Spool(spool_folder(root, fingerprint), pack_rows)
        super().__init__(spool, lock=lock_path(root), what=str(root))
        self.root = root
        self.fingerprint = fingerprint
        self.folder = root / fingerprint
        self._store: FeatureStore | None = None

    def append(self, rows: Sequence[FeatureRow], number: int | None = None) -> None:
        """Add rows as one new part, whole or not at all; rows that are there already are left out.

        Args:
            rows: What to add.
            number: Place of the part among those of this run; None for the next free one.

        Raises:
            ValueError: When a row's shape does not fit the store, holds a NaN or overflows the store's dtype.
            OSError: When the disk is full, say; nothing was added then.
        """
        store = self._opened()
        new: dict[tuple[str, str], FeatureRow] = {(row.clip_id, row.digest): row for row in rows}
        rows = [row for (clip_id, digest), row in new.items() if not store.holds(clip_id, digest)]
        if not rows:
            return
        if store.dim is None:
            raise ValueError(f"{store.folder} was made without a width")
        arrays: dict[str, NDArray[Any]] = {
            "values": np.concatenate([checked(row, store.dim, store.dtype) for row in rows])
        }
        for side in rows[0].side:
            arrays[side] = np.concatenate([np.asarray(row.side[side]) for row in rows])
        attributes = PartAttributes(
            self.fingerprint,
            [row.clip_id for row in rows],
            [row.digest for row in rows],
            [len(row.values) for row in rows],
            versions=all_versions(row.versions for row in rows),
        )
        self.spool.folder.mkdir(parents=True, exist_ok=True)
        write_part(self.folder, self._place(number), attributes, arrays, aside=self.spool.folder)
        if current_fingerprint(self.root) is None:
            make_current(self.root, self.fingerprint)  # a store with features must name some
        store.refresh()

    def seal(self, number: int, tasks: Sequence[str], clip_ids: Sequence[str]) -> int:
        """Make one part of what workers kept; see `PartWriter`."""
        with self._kept(tasks) as batches:
            kept = {row.clip_id: row for payload in batches for row in unpack_rows(payload)}
            rows = [kept[clip_id] for clip_id in clip_ids if clip_id in kept]
            self.append(rows, number)
        return len(rows)

    def _opened(self) -> FeatureStore:
        if self._store is None or self._store.dim is None:
            if not has_fingerprint(self.root, self.fingerprint):
                raise StoreError(f"{self.folder} is missing", "it was removed while a run was writing to it: run again")
            self._store = FeatureStore(self.root, self.fingerprint)
        return self._store

    def _refresh(self) -> None:
        current_fingerprint(self.root)  # refuses another format
        for folder in (self.root, self.folder):
            for path in folder.glob(".zarr.json.*"):
                path.unlink(missing_ok=True)  # a group's document that a killed process was writing

    def _adopt(self, leftovers: Sequence[Path]) -> int:
        if not leftovers or not has_fingerprint(self.root, self.fingerprint):
            return 0  # where the store was removed since, they wait until there is one again
        before = len(self._opened())
        self.append([row for path in leftovers for row in _read_batch(path)])
        for path in leftovers:
            path.unlink()
        return len(self._opened()) - before

    def _next_number(self) -> int:
        return 1 + max((part_number(name) for name in part_names(self.folder)), default=-1)


def _read_batch(path: Path) -> list[FeatureRow]:
    try:
        return unpack_rows(path.read_bytes())
    except StoreError as error:
        raise StoreError(
            f"{path}: {error}", "`ecmf-pipe store verify --mend` sets it aside; its clips are then computed again"
        ) from error


def can_hold(values: NDArray[Any], dtype: DTypeLike) -> bool:
    """Whether features are finite, and stay so in the type they are stored in."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(dtype)).all())


def checked(row: FeatureRow, dim: int, dtype: DTypeLike) -> NDArray[Any]:
    """A row's features in the type they are stored in, (T, D).

    Raises:
        ValueError: When their shape does not fit, or they hold a NaN or overflow the type.
    """
    if row.values.ndim != 2 or row.values.shape[1] != dim or len(row.values) == 0:
        raise ValueError(f"{row.clip_id}: features are {row.values.shape}, the store takes (T >= 1, {dim})")
    if not can_hold(row.values, dtype):
        raise ValueError(f"{row.clip_id}: features hold NaN or exceed {np.dtype(dtype)}")
    return row.values.astype(dtype)


def pack_rows(rows: Sequence[FeatureRow]) -> bytes:
    """Rows as the bytes of one ``npz`` file; all must have the same arrays beside their values."""
    about = [[row.clip_id, row.digest, len(row.values), dict(row.versions)] for row in rows]
    arrays: dict[str, Any] = {"values": np.concatenate([row.values for row in rows])}
    for name in rows[0].side:
        arrays[f"side.{name}"] = np.concatenate([np.asarray(row.side[name]) for row in rows])
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def unpack_rows(payload: bytes) -> list[FeatureRow]:
    """The rows that `pack_rows` packed.

    Raises:
        StoreError: When the bytes are damaged (every array in them has a CRC-32).
    """
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("about").tobytes())
        values = arrays.pop("values")
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise StoreError(f"a finished batch is damaged ({error})") from error
    rows, start = [], 0
    for clip_id, digest, length, versions in about:
        span = slice(start, start + length)
        side = {name.removeprefix("side."): array[span] for name, array in arrays.items()}
        rows.append(FeatureRow(clip_id, digest, values[span], side, versions))
        start += length
    return rows
