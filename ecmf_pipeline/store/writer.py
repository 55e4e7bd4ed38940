"""Write a store: workers spool batches of rows, a single writer turns them into parts."""

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
from ecmf_pipeline.core.files import StrPath, with_sha256, without_sha256
from ecmf_pipeline.runner.step import PartWriter, Spool
from ecmf_pipeline.store.dvc_links import share_with_dvc
from ecmf_pipeline.store.features import FeatureStore
from ecmf_pipeline.store.format import (
    FeatureRow,
    PartAttributes,
    current_fingerprint,
    distinct_versions,
    has_fingerprint,
    lock_path,
    make_current,
    part_names,
    part_number,
    spool_folder,
    write_part,
)
from ecmf_pipeline.store.kept import KeptParts, restore_features
from ecmf_pipeline.store.spools import adopt_spools, spool_of


class StoreWriter(PartWriter[FeatureRow]):
    """The single writer of a store; see `PartWriter`.

    Args:
        root: The ``*.zarr`` folder of the modality.
        fingerprint: Fingerprint of the settings that computed the features.
        beside: An open writer of another fingerprint of the same store. Its lock, which must be held until this writer
            is closed, serves both.

    Raises:
        StoreBusy: On entering, if another run is writing to the store.
        StoreError: On entering, if the store is damaged or has another format.
    """

    def __init__(self, root: StrPath, fingerprint: str, *, beside: StoreWriter | None = None) -> None:
        root = Path(root)
        folder, self._lock_file = spool_of(spool_folder(root, fingerprint), lock_path(root))
        is_locked = beside is not None and beside._lock_file == self._lock_file
        super().__init__(Spool(folder, pack_rows), lock=None if is_locked else self._lock_file, what=str(root))
        self.root = root
        self.fingerprint = fingerprint
        self.folder = root / fingerprint
        self._store: FeatureStore | None = None

    def append(self, rows: Sequence[FeatureRow], number: int | None = None) -> None:
        """Add rows as one new part, atomically. Rows that are already stored are skipped.

        Args:
            rows: The rows to add.
            number: Position of the part among the parts of this run; None for the next free one.

        Raises:
            ValueError: If a row has another shape than the store, holds NaN or overflows the type of the store.
            OSError: If writing fails, for example because the disk is full; nothing is added.
        """
        store = self._open_store()
        new: dict[tuple[str, str], FeatureRow] = {(row.clip_id, row.digest): row for row in rows}
        rows = [row for (clip_id, digest), row in new.items() if not store.holds(clip_id, digest)]
        if not rows:
            return
        if store.dim is None:
            raise ValueError(f"{store.folder} was created without a width")
        arrays: dict[str, NDArray[Any]] = {
            "values": np.concatenate([to_stored_type(row, store.dim, store.dtype) for row in rows])
        }
        for side in rows[0].side:
            arrays[side] = np.concatenate([np.asarray(row.side[side]) for row in rows])
        attributes = PartAttributes(
            self.fingerprint,
            [row.clip_id for row in rows],
            [row.digest for row in rows],
            [len(row.values) for row in rows],
            versions=distinct_versions(row.versions for row in rows),
        )
        self.spool.folder.mkdir(parents=True, exist_ok=True)
        name = write_part(self.folder, self._place(number), attributes, arrays, staging=self.spool.folder)
        KeptParts(self.folder).keep([name])
        if current_fingerprint(self.root) is None:
            make_current(self.root, self.fingerprint)  # a store with features must have current settings
        store.refresh()

    def seal(self, number: int, tasks: Sequence[str], clip_ids: Sequence[str]) -> int:
        """Write the spooled batches of some tasks as one part; see `PartWriter`."""
        with self._kept(tasks) as batches:
            spooled = {row.clip_id: row for payload in batches for row in unpack_rows(payload)}
            rows = [spooled[clip_id] for clip_id in clip_ids if clip_id in spooled]
            self.append(rows, number)
        return len(rows)

    def _open_store(self) -> FeatureStore:
        if self._store is None or self._store.dim is None:
            if not has_fingerprint(self.root, self.fingerprint):
                raise StoreError(
                    f"{self.folder} was removed while a run was writing to it",
                    "run the same command again to compute its features",
                )
            self._store = FeatureStore(self.root, self.fingerprint)
        return self._store

    def _refresh(self) -> None:
        current_fingerprint(self.root)  # raises if the store has another format
        for folder in (self.root, self.folder):
            for path in folder.glob(".zarr.json.*"):
                path.unlink(missing_ok=True)  # temporary file of a process that was killed
        adopt_spools(spool_folder(self.root, self.fingerprint), self.spool.folder)
        restore_features(self.root, self.fingerprint)
        KeptParts(self.folder).keep()
        share_with_dvc(KeptParts(self.folder))

    def _adopt(self, leftovers: Sequence[Path]) -> int:
        if not leftovers or not has_fingerprint(self.root, self.fingerprint):
            return 0  # batches of a removed store stay in the spool until the store exists again
        before = len(self._open_store())
        self.append([row for path in leftovers for row in read_batch(path)])
        for path in leftovers:
            path.unlink()
        return len(self._open_store()) - before

    def _next_number(self) -> int:
        return 1 + max((part_number(name) for name in part_names(self.folder)), default=-1)


def read_batch(path: Path) -> list[FeatureRow]:
    """Read the finished batch of a killed run.

    Raises:
        StoreError: If it is damaged.
    """
    try:
        return unpack_rows(path.read_bytes())
    except StoreError as error:
        raise StoreError(
            f"{path}: {error.message}",
            "move it out of the spool; the next run computes its clips again",
            command="ecmf-pipe store verify --mend",
        ) from error


def can_hold(values: NDArray[Any], dtype: DTypeLike) -> bool:
    """Return whether features are finite, also after conversion to the stored type."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(dtype)).all())


def to_stored_type(row: FeatureRow, dim: int, dtype: DTypeLike) -> NDArray[Any]:
    """Convert the features of a row to the stored type, (T, D).

    Raises:
        ValueError: If their shape is not (T >= 1, ``dim``), or they hold NaN or overflow the type.
    """
    if row.values.ndim != 2 or row.values.shape[1] != dim or len(row.values) == 0:
        raise ValueError(
            f"{row.clip_id}: features have the shape {row.values.shape}, the store expects (T >= 1, {dim})"
        )
    if not can_hold(row.values, dtype):
        raise ValueError(f"{row.clip_id}: features are NaN or exceed the range of {np.dtype(dtype)}")
    return row.values.astype(dtype)


def pack_rows(rows: Sequence[FeatureRow]) -> bytes:
    """Serialise rows as one ``npz`` file and its SHA-256; all rows must have the same side arrays."""
    about = [[row.clip_id, row.digest, len(row.values), dict(row.versions)] for row in rows]
    arrays: dict[str, Any] = {"values": np.concatenate([row.values for row in rows])}
    for name in rows[0].side:
        arrays[f"side.{name}"] = np.concatenate([np.asarray(row.side[name]) for row in rows])
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    return with_sha256(buffer.getvalue())


def unpack_rows(payload: bytes) -> list[FeatureRow]:
    """Deserialise the rows of `pack_rows`.

    Raises:
        StoreError: If the bytes are damaged.
    """
    try:
        with np.load(io.BytesIO(without_sha256(payload)), allow_pickle=False) as file:
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
