"""Read all parts and batches of a store, and compare them to a reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import EcmfError
from ecmf_pipeline.runner.quarantine import QuarantineEntry, read_quarantine
from ecmf_pipeline.store import FeatureRow, FeatureStore, current_fingerprint
from ecmf_pipeline.store.format import array_names, part_names, read_array, read_attributes, spool_folder
from ecmf_pipeline.store.writer import unpack_rows

Key = tuple[str, str]
"""Clip id and digest of the input."""


class Fault(StrEnum):
    """Kinds of failed checks."""

    LOST = "lost"
    """A row that was durable has disappeared, or was never computed."""
    DOUBLED = "doubled"
    """A row is stored twice."""
    TORN = "torn"
    """A part, batch or table is unreadable, or a row differs from the reference."""
    FOREIGN = "foreign"
    """A row, table entry or file that is not in the reference."""
    ORPHANED = "orphaned"
    """A worker did not exit after its run."""
    WASTED = "wasted"
    """More clips were computed again than the batches in flight."""
    ENDED_BADLY = "ended badly"
    """A run ended with an unexpected exit status."""


Faults = list[tuple[Fault, str]]


@dataclass
class Contents:
    """Contents of one store.

    Attributes:
        rows: Rows in parts.
        spooled: Rows in finished batches; they may also be in a part or in a batch of another run.
        faults: Faults found without a reference.
    """

    rows: dict[Key, FeatureRow] = field(default_factory=dict)
    spooled: list[FeatureRow] = field(default_factory=list)
    faults: Faults = field(default_factory=list)

    @property
    def durable(self) -> set[Key]:
        """Keys of all rows that the next run does not need to compute."""
        return self.rows.keys() | {(row.clip_id, row.digest) for row in self.spooled}


def read_contents(root: Path, fingerprint: str) -> Contents:
    """Read all parts and finished batches of a store and check the CRC-32C of each array.

    Args:
        root: The ``*.zarr`` folder; it may be missing.
        fingerprint: Fingerprint of the expected settings.
    """
    contents = Contents()
    try:
        current = current_fingerprint(root)
    except EcmfError as error:
        contents.faults.append((Fault.TORN, error.message))
        current = None
    if current not in {None, fingerprint}:
        contents.faults.append((Fault.FOREIGN, f"{root} has the settings {current}"))
    folder = root / fingerprint
    for name in part_names(folder):
        _read_part(folder / name, fingerprint, contents)
    for path in sorted(spool_folder(root, fingerprint).glob("*.batch")):
        try:
            contents.spooled += unpack_rows(path.read_bytes())
        except Exception as error:  # noqa: BLE001 - a torn file may raise anything
            contents.faults.append((Fault.TORN, f"{path}: {error!r}"))
    return contents


def _read_part(folder: Path, fingerprint: str, contents: Contents) -> None:
    try:
        part = read_attributes(folder, fingerprint)
        arrays = {name: read_array(folder / name) for name in array_names(folder)}
        values = arrays.pop("values")
    except (EcmfError, OSError, KeyError) as error:
        contents.faults.append((Fault.TORN, f"{folder}: {error!r}"))
        return
    if {len(values), *map(len, arrays.values())} != {sum(part.length)}:
        contents.faults.append((Fault.TORN, f"{folder}: arrays differ in length from the clips"))
        return
    start = 0
    for key, length in zip(zip(part.clip_id, part.digest, strict=True), part.length, strict=True):
        if key in contents.rows:
            contents.faults.append((Fault.DOUBLED, f"{key} is also in {folder}"))
        side = {name: array[start : start + length] for name, array in arrays.items()}
        contents.rows[key] = FeatureRow(*key, values[start : start + length], side)
        start += length


@dataclass
class Reference:
    """Result of an uninterrupted run for one modality.

    Attributes:
        fingerprint: Fingerprint of its settings.
        rows: Rows of its store.
        quarantine: Its quarantine table, without times.
        files: Files of its store outside the parts.
    """

    fingerprint: str
    rows: Mapping[Key, FeatureRow]
    quarantine: Collection[QuarantineEntry]
    files: Collection[Path]

    @classmethod
    def read(cls, root: Path, quarantine: Path) -> Reference:
        """Read the result.

        Raises:
            ValueError: If it has faults.
        """
        fingerprint = FeatureStore.open(root).fingerprint
        contents = read_contents(root, fingerprint)
        if contents.faults or contents.spooled or not contents.rows:
            raise ValueError(f"the uninterrupted run is faulty: {contents.faults or 'some rows are not in parts'}")
        return cls(fingerprint, contents.rows, _entries_without_time(quarantine), _files(root))

    def compare(self, contents: Contents, quarantine: Path) -> Faults:
        """Return the faults of an unfinished store: each of its rows must equal that of the reference."""
        faults = list(contents.faults)
        for row in (*contents.rows.values(), *contents.spooled):
            key = (row.clip_id, row.digest)
            if key not in self.rows:
                faults.append((Fault.FOREIGN, f"{key} is not in the reference"))
            elif not _equal(row, self.rows[key]):
                faults.append((Fault.TORN, f"{key} differs from the reference"))
        try:
            entries = _entries_without_time(quarantine)
        except EcmfError as error:
            return [*faults, (Fault.TORN, f"{quarantine}: {error.message}")]
        reference_entries = set(self.quarantine)
        faults += [(Fault.FOREIGN, f"quarantined: {entry}") for entry in entries if entry not in reference_entries]
        return faults

    def compare_finished(self, root: Path, quarantine: Path) -> Faults:
        """Return the faults of a finished store, including those of features read by `FeatureStore`."""
        contents = read_contents(root, self.fingerprint)
        faults = self.compare(contents, quarantine)
        faults += [(Fault.LOST, f"{key}") for key in self.rows.keys() - contents.rows.keys()]
        faults += [(Fault.LOST, f"{entry}") for entry in set(self.quarantine) - set(_entries_without_time(quarantine))]
        faults += [(Fault.FOREIGN, f"leftover file {path}") for path in set(_files(root)) - set(self.files)]
        if any(fault in {Fault.LOST, Fault.TORN} for fault, _ in faults):
            return faults
        store = FeatureStore.open(root)
        clip_ids = sorted({clip_id for clip_id, _ in self.rows})
        loaded = store.load(clip_ids)
        means = {clip_id: row.values.astype(np.float32).mean(axis=0) for (clip_id, _), row in self.rows.items()}
        expected = np.stack([means[clip_id] for clip_id in clip_ids])
        if len(store) != len(clip_ids) or not np.allclose(loaded.values, expected, rtol=1e-5, atol=1e-6):
            faults.append((Fault.TORN, f"features read from {root} differ from the reference"))
        return faults


def count(faults: Faults) -> Counter[Fault]:
    """Count faults by kind."""
    return Counter(fault for fault, _ in faults)


def _equal(row: FeatureRow, other: FeatureRow) -> bool:
    if row.side.keys() != other.side.keys() or not _same_array(row.values, other.values):
        return False
    return all(_same_array(array, other.side[name]) for name, array in row.side.items())


def _same_array(array: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    return array.dtype == other.dtype and np.array_equal(array, other)


def _entries_without_time(quarantine: Path) -> list[QuarantineEntry]:
    return [replace(entry, time="") for entry in read_quarantine(quarantine)]


def _files(root: Path) -> list[Path]:
    """Return the files of a store outside its parts, relative to it."""
    files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    return sorted(path for path in files if not any(folder.startswith("part-") for folder in path.parts))
