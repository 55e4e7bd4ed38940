"""Feature stores: Zarr v3, made of immutable parts.

::

    data/features/face.zarr/                a Zarr group; attribute `current` names the settings in use
      1f0c9a77b2de/                         one group for each settings' fingerprint, its attributes hold the settings
        part-000000-5c1d0e9a/               a group: attributes `clip_id`, `digest`, `length`, one entry a clip
          values/                           (rows, D) features of its clips, one after another, uncompressed
          times/                            (rows,) seconds from the clip's start

A part is written aside and renamed into place, so only whole parts exist; nothing is ever rewritten. A clip whose
input changed gets a new row in a later part: a row counts only when its digest is the one asked for. Appending
therefore never touches old bytes, and two writers at once cannot lose a row of the other.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ecmf_pipeline.errors import MissingInput, StaleStore, StoreError
from ecmf_pipeline.files import fingerprint as fingerprint_of
from ecmf_pipeline.files import sha256_text, write_atomic
from ecmf_pipeline.pooling import Pool, pool_segments, pooled_width

FORMAT = 1


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """The features of one clip.

    Attributes:
        clip_id: The clip.
        digest: Digest of the input they were computed from.
        values: Features, (T, D), T at least 1.
        side: Further arrays with one entry a row (``times``, ``boxes``...), (T,) or (T, k).
    """

    clip_id: str
    digest: str
    values: NDArray[Any]
    side: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Features:
    """Pooled features in the order they were asked for.

    Attributes:
        values: (n, D), float32; NaN rows where the clip has none.
        present: (n,), whether the clip has features.
    """

    values: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Location:
    part: str
    start: int
    length: int


class FeatureStore:
    """The features of one modality under one encoder's settings."""

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.root = root
        self.fingerprint = fingerprint
        self.folder = root / fingerprint
        attributes = _attributes(self.folder)
        self.dim = int(attributes["dim"])
        self.dtype = np.dtype(attributes["dtype"])
        self.settings: dict[str, Any] = attributes["settings"]
        self._parts: dict[str, dict[str, _Location]] = {}
        self._known_parts: set[str] = set()
        self.refresh()

    @classmethod
    def create(cls, root: Path, settings: Mapping[str, Any], *, dim: int, dtype: str) -> FeatureStore:
        """Open the store of these settings for appending, making it when it is new, and name it the current one.

        Args:
            root: The ``*.zarr`` folder of the modality; stores of other settings in it stay as they are.
            settings: All that changes the numbers, as plain JSON values.
            dim: D.
            dtype: NumPy name of the stored type.
        """
        fingerprint = fingerprint_of(settings)
        folder = root / fingerprint
        if not has_fingerprint(root, fingerprint):
            attributes = {"fingerprint": fingerprint, "settings": dict(settings), "dim": dim, "dtype": dtype}
            _write_group(folder, attributes)
        store = cls(root, fingerprint)
        if (store.dim, store.dtype) != (dim, np.dtype(dtype)):
            raise StaleStore(
                f"{folder} holds {store.dim} x {store.dtype} rows, the encoder now gives {dim} x {dtype}",
                "its settings must name what changed; remove the folder to compute it anew",
            )
        make_current(root, fingerprint)
        _remove_leftovers(root)
        return store

    @classmethod
    def open(cls, root: Path, fingerprint: str | None = None) -> FeatureStore:
        """Open a store for reading: the current one, or that of a given fingerprint.

        Raises:
            MissingInput: When there is no store.
            StaleStore: When the store holds features of other settings only.
        """
        current = current_fingerprint(root)
        if current is None:
            raise MissingInput(
                f"{root} is missing",
                f"run `ecmf-pipe extract --modality {root.stem}`, or `dvc pull` if a colleague did",
            )
        wanted = fingerprint or current
        if not has_fingerprint(root, wanted):
            raise StaleStore(
                f"{root} holds features of the settings {current}, not of {wanted}",
                f"params.yaml changed since: run `ecmf-pipe extract --modality {root.stem}`",
            )
        return cls(root, wanted)

    def refresh(self) -> None:
        """Take up the parts that were added since the store was opened."""
        names = sorted(path.name for path in self.folder.glob("part-*"))
        for name in names:
            if name in self._known_parts:
                continue
            attributes = _attributes(self.folder / name)
            start = 0
            for clip_id, digest, length in zip(
                attributes["clip_id"], attributes["digest"], attributes["length"], strict=True
            ):
                self._parts.setdefault(clip_id, {})[digest] = _Location(name, start, length)
                start += length
            self._known_parts.add(name)

    def __len__(self) -> int:
        """How many clips have features."""
        return len(self._parts)

    def digests(self) -> dict[str, list[str]]:
        """For each clip, the digests of the inputs its rows were computed from, oldest first."""
        return {clip_id: list(rows) for clip_id, rows in self._parts.items()}

    def holds(self, clip_id: str, digest: str) -> bool:
        """Whether the clip's features of exactly this input are here."""
        return digest in self._parts.get(clip_id, ())

    def can_hold(self, values: NDArray[Any]) -> bool:
        """Whether features are finite, and stay so in the store's type."""
        with np.errstate(over="ignore"):
            return bool(np.isfinite(values.astype(self.dtype)).all())

    def append(self, rows: Sequence[FeatureRow]) -> None:
        """Add rows as one new part, whole or not at all.

        Raises:
            ValueError: When a row's shape does not fit the store, holds a NaN or overflows the store's dtype.
        """
        if not rows:
            return
        values = np.concatenate([self._checked(row) for row in rows])
        attributes = {
            "clip_id": [row.clip_id for row in rows],
            "digest": [row.digest for row in rows],
            "length": [len(row.values) for row in rows],
        }
        number = 1 + max((int(name.split("-")[1]) for name in self._known_parts), default=-1)
        name = f"part-{number:06d}-{sha256_text(json.dumps(attributes))[:8]}"
        # Beside the store, not in it: DVC must never take half a part for an output.
        aside = self.root.parent / f".{self.root.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        group = zarr.create_group(aside, attributes=attributes)
        arrays = {"values": values}
        for side in rows[0].side:
            arrays[side] = np.concatenate([np.asarray(row.side[side]) for row in rows])
        for array_name, array in arrays.items():
            group.create_array(array_name, data=array, chunks=array.shape, compressors=None)
        _flush(aside)
        try:
            aside.rename(self.folder / name)
        except OSError:
            if not (self.folder / name).is_dir():
                raise
            shutil.rmtree(aside)  # another writer was first with the very same clips
        self.refresh()

    def load(
        self, clip_ids: Sequence[str], *, pool: Pool = "mean", digests: Mapping[str, str] | None = None
    ) -> Features:
        """Read pooled features.

        Args:
            clip_ids: The clips, in the order wanted.
            pool: How a clip's rows become one vector.
            digests: The input each clip's features must come from; a clip whose row is older counts as missing.
                None takes the newest row.
        """
        values = np.full((len(clip_ids), pooled_width(self.dim, pool)), np.nan, np.float32)
        by_part: dict[str, list[tuple[int, _Location]]] = {}
        for position, clip_id in enumerate(clip_ids):
            location = self._locate(clip_id, digests)
            if location is not None:
                by_part.setdefault(location.part, []).append((position, location))
        for part, wanted in by_part.items():
            rows = self._read(part, "values")
            rows = np.concatenate([rows[at.start : at.start + at.length] for _, at in wanted])
            lengths = np.array([at.length for _, at in wanted], np.int64)
            pooled = pool_segments(rows.astype(np.float32), lengths, pool)
            values[[position for position, _ in wanted]] = pooled
        return Features(values, np.asarray(np.isfinite(values).all(axis=1)))

    def row(self, clip_id: str, digest: str | None = None) -> FeatureRow:
        """The frame-level features of one clip with all that is kept beside them.

        Raises:
            KeyError: When the clip has none.
        """
        location = self._locate(clip_id, None if digest is None else {clip_id: digest})
        if location is None:
            raise KeyError(clip_id)
        rows = slice(location.start, location.start + location.length)
        names = sorted(path.name for path in (self.folder / location.part).iterdir() if path.is_dir())
        arrays = {name: self._read(location.part, name)[rows] for name in names}
        found = next(key for key, at in self._parts[clip_id].items() if at == location)
        return FeatureRow(clip_id, found, arrays.pop("values"), arrays)

    def _locate(self, clip_id: str, digests: Mapping[str, str] | None) -> _Location | None:
        rows = self._parts.get(clip_id)
        if not rows:
            return None
        return list(rows.values())[-1] if digests is None else rows.get(digests.get(clip_id, ""))

    def _read(self, part: str, name: str) -> NDArray[Any]:
        try:
            array = zarr.open_array(self.folder / part / name, mode="r")
            return np.asarray(array[...])
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(f"{self.folder / part / name} cannot be read ({error})", "remove the part") from error

    def _checked(self, row: FeatureRow) -> NDArray[Any]:
        if row.values.ndim != 2 or row.values.shape[1] != self.dim or len(row.values) == 0:
            raise ValueError(f"{row.clip_id}: features are {row.values.shape}, the store takes (T >= 1, {self.dim})")
        if not self.can_hold(row.values):
            raise ValueError(f"{row.clip_id}: features hold NaN or exceed {self.dtype}")
        return row.values.astype(self.dtype)


def current_fingerprint(root: Path) -> str | None:
    """The fingerprint of the settings in use, or None when there is no store yet."""
    if not (root / "zarr.json").is_file():
        return None
    return str(_attributes(root)["current"])


def has_fingerprint(root: Path, fingerprint: str) -> bool:
    """Whether there is a store of these settings."""
    return (root / fingerprint / "zarr.json").is_file()


def make_current(root: Path, fingerprint: str) -> None:
    """Name the store of these settings the one that later stages read."""
    if current_fingerprint(root) != fingerprint:
        _write_group(root, {"ecmf_store": FORMAT, "current": fingerprint})


def _attributes(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / "zarr.json").read_bytes())
        attributes: dict[str, Any] = document["attributes"]
    except FileNotFoundError as error:
        raise MissingInput(f"{folder} is missing", "run `ecmf-pipe extract`") from error
    except (json.JSONDecodeError, KeyError) as error:
        raise StoreError(f"{folder / 'zarr.json'} is damaged ({error})", "remove that folder, extract again") from error
    return attributes


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    document = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    write_atomic(folder / "zarr.json", json.dumps(document, indent=2, sort_keys=True) + "\n")


def _flush(folder: Path) -> None:
    """Hand every file of a part to the disk before the part is renamed into place."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _remove_leftovers(root: Path) -> None:
    """Remove what writers that are no longer alive left beside the store."""
    for path in root.parent.glob(f".{root.name}.*"):
        owner = path.name.removeprefix(f".{root.name}.").split(".")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)
