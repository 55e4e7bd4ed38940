"""What stands in a store, read part by part and batch by batch, and what is wrong with it."""

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
"""A clip and the digest of its input."""


class Fault(StrEnum):
    """What can be wrong."""

    LOST = "lost"
    """A row that was durable is not there any more, or never came."""
    DOUBLED = "doubled"
    """A row stands in the store twice."""
    TORN = "torn"
    """A part, batch or table cannot be read, or a row is not what it is in the reference."""
    FOREIGN = "foreign"
    """A row, table entry or file that the reference does not have."""
    ORPHANED = "orphaned"
    """A worker that outlives its run."""
    WASTED = "wasted"
    """More was computed again than the batches in flight."""
    ENDED_BADLY = "ended badly"
    """A run that ended otherwise than it should."""


Faults = list[tuple[Fault, str]]


@dataclass
class Contents:
    """What stands in one store.

    Attributes:
        rows: Those in parts.
        spooled: Those in finished batches; a part may hold them too, or another run's batch.
        faults: What is wrong by itself.
    """

    rows: dict[Key, FeatureRow] = field(default_factory=dict)
    spooled: list[FeatureRow] = field(default_factory=list)
    faults: Faults = field(default_factory=list)

    @property
    def durable(self) -> set[Key]:
        """All that a next run need not compute."""
        return self.rows.keys() | {(row.clip_id, row.digest) for row in self.spooled}


def read_contents(root: Path, fingerprint: str) -> Contents:
    """Read all parts and finished batches of a store; each array's bytes are checked by their CRC-32C.

    Args:
        root: The ``*.zarr`` folder; need not exist.
        fingerprint: The settings that its rows must have.
    """
    contents = Contents()
    try:
        current = current_fingerprint(root)
    except EcmfError as error:
        contents.faults.append((Fault.TORN, str(error)))
        current = None
    if current not in {None, fingerprint}:
        contents.faults.append((Fault.FOREIGN, f"{root} is of {current}"))
    folder = root / fingerprint
    for name in part_names(folder):
        _read_part(folder / name, fingerprint, contents)
    for path in sorted(spool_folder(root, fingerprint).glob("*.batch")):
        try:
            contents.spooled += unpack_rows(path.read_bytes())
        except Exception as error:  # noqa: BLE001 - whatever a torn file raises is the finding
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
        contents.faults.append((Fault.TORN, f"{folder}: arrays of other lengths than its clips'"))
        return
    start = 0
    for key, length in zip(zip(part.clip_id, part.digest, strict=True), part.length, strict=True):
        if key in contents.rows:
            contents.faults.append((Fault.DOUBLED, f"{key}, again in {folder}"))
        side = {name: array[start : start + length] for name, array in arrays.items()}
        contents.rows[key] = FeatureRow(*key, values[start : start + length], side)
        start += length


@dataclass
class Reference:
    """What an uninterrupted run has made of one modality.

    Attributes:
        fingerprint: Of its settings.
        rows: In its store.
        quarantine: Its table, times left out.
        files: The files of its store that are no part's.
    """

    fingerprint: str
    rows: Mapping[Key, FeatureRow]
    quarantine: Collection[QuarantineEntry]
    files: Collection[Path]

    @classmethod
    def read(cls, root: Path, quarantine: Path) -> Reference:
        """Read it.

        Raises:
            ValueError: When something is wrong with it already.
        """
        fingerprint = FeatureStore.open(root).fingerprint
        contents = read_contents(root, fingerprint)
        if contents.faults or contents.spooled or not contents.rows:
            raise ValueError(f"the uninterrupted run went wrong: {contents.faults or 'not everything is in parts'}")
        return cls(fingerprint, contents.rows, _timeless(quarantine), _files(root))

    def compare(self, contents: Contents, quarantine: Path) -> Faults:
        """What is wrong with a store that may be unfinished: every row there is must be the reference's."""
        faults = list(contents.faults)
        for row in (*contents.rows.values(), *contents.spooled):
            key = (row.clip_id, row.digest)
            if key not in self.rows:
                faults.append((Fault.FOREIGN, f"{key} is not in the reference"))
            elif not _equal(row, self.rows[key]):
                faults.append((Fault.TORN, f"{key} differs from the reference"))
        try:
            entries = _timeless(quarantine)
        except EcmfError as error:
            return [*faults, (Fault.TORN, f"{quarantine}: {error}")]
        known = set(self.quarantine)
        faults += [(Fault.FOREIGN, f"quarantined: {entry}") for entry in entries if entry not in known]
        return faults

    def compare_finished(self, root: Path, quarantine: Path) -> Faults:
        """What is wrong with a store that must be finished, and with what its reader gives."""
        contents = read_contents(root, self.fingerprint)
        faults = self.compare(contents, quarantine)
        faults += [(Fault.LOST, f"{key}") for key in self.rows.keys() - contents.rows.keys()]
        faults += [(Fault.LOST, f"{entry}") for entry in set(self.quarantine) - set(_timeless(quarantine))]
        faults += [(Fault.FOREIGN, f"the file {path} is left") for path in set(_files(root)) - set(self.files)]
        if any(fault in {Fault.LOST, Fault.TORN} for fault, _ in faults):
            return faults
        store = FeatureStore.open(root)
        clip_ids = sorted({clip_id for clip_id, _ in self.rows})
        loaded = store.load(clip_ids)
        means = {clip_id: row.values.astype(np.float32).mean(axis=0) for (clip_id, _), row in self.rows.items()}
        expected = np.stack([means[clip_id] for clip_id in clip_ids])
        if len(store) != len(clip_ids) or not np.allclose(loaded.values, expected, rtol=1e-5, atol=1e-6):
            faults.append((Fault.TORN, f"{root} is read otherwise than the reference"))
        return faults


def count(faults: Faults) -> Counter[Fault]:
    """How many of each kind."""
    return Counter(fault for fault, _ in faults)


def _equal(row: FeatureRow, other: FeatureRow) -> bool:
    if row.side.keys() != other.side.keys() or not _same_array(row.values, other.values):
        return False
    return all(_same_array(array, other.side[name]) for name, array in row.side.items())


def _same_array(array: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    return array.dtype == other.dtype and np.array_equal(array, other)


def _timeless(quarantine: Path) -> list[QuarantineEntry]:
    return [replace(entry, time="") for entry in read_quarantine(quarantine)]


def _files(root: Path) -> list[Path]:
    """The files of a store that are no part's, relative to it."""
    files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    return sorted(path for path in files if not any(folder.startswith("part-") for folder in path.parts))
