"""Check the parts of a store; describe damaged and superfluous data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import StoreError
from ecmf_pipeline.core.files import parse_json
from ecmf_pipeline.store.format import PartAttributes, array_identity, array_names, read_array


class Kind(StrEnum):
    """Kind of a finding: damage makes a store unreadable or its values wrong, the notes after it are harmless."""

    ROOT = "damaged root"
    SETTINGS = "damaged settings"
    ATTRIBUTES = "damaged attributes"
    FOREIGN = "foreign fingerprint"
    EMPTY = "part without rows"
    ARRAY = "damaged array"
    MISSING_CHUNK = "missing chunk"
    TRUNCATED_CHUNK = "truncated chunk"
    CORRUPTED_CHUNK = "corrupted chunk"
    SHAPE = "wrong shape or type"
    NOT_FINITE = "non-finite values"
    BATCH = "damaged batch"

    DUPLICATES = "duplicate rows"
    REPLACED = "superseded rows"
    OUTDATED = "outdated rows"
    ABSENT = "rows of absent clips"
    SUPERSEDED = "superseded parts"
    LEFTOVERS = "unfinished run"
    STRAY = "stray file or folder"
    UNCHECKED = "no checksums"
    SET_ASIDE = "moved earlier"
    CHANGED = "changed meanwhile"

    @property
    def is_damage(self) -> bool:
        """Whether it makes the store unreadable or its values wrong."""
        return self not in _NOTES


class _Repair(NamedTuple):
    """How to repair a kind of finding, and the command for it; "" if there is none."""

    hint: str
    command: str = ""


_VERIFY_MEND = "ecmf-pipe store verify --mend {root}"
_COMPACT = "ecmf-pipe store compact {root}"
_EXTRACT = "ecmf-pipe extract --modality {name}"

_MOVE_AND_RECOMPUTE = _Repair(
    "move the {unit} to {damaged}, then compute only its clips again (imported features: import them again)",
    f"{_VERIFY_MEND} && {_EXTRACT}",
)

_DAMAGE = {
    Kind.ROOT: _Repair(
        "write the file again; no features are lost. If several settings groups can be current, the next extraction "
        "writes it",
        _VERIFY_MEND,
    ),
    Kind.SETTINGS: _Repair(
        "set params.yaml to these settings and write the file again, or copy the file from a colleague; the parts are "
        "not moved",
        _VERIFY_MEND,
    ),
}
"""Repair of damage outside parts and batches."""

_NOTES = {
    Kind.DUPLICATES: _Repair("harmless; remove these rows", _COMPACT),
    Kind.REPLACED: _Repair("harmless; remove these rows", _COMPACT),
    Kind.OUTDATED: _Repair(
        "harmless; compute the features of the current inputs, then remove these rows", f"{_EXTRACT} && {_COMPACT}"
    ),
    Kind.ABSENT: _Repair(
        "harmless, and used again if the clips return to the manifest; otherwise remove these rows",
        "ecmf-pipe store compact --drop-absent {root}",
    ),
    Kind.SUPERSEDED: _Repair("harmless, left by an interrupted `compact`; remove these parts", _COMPACT),
    Kind.LEFTOVERS: _Repair("harmless; if no run is active, the next extraction adds these batches", _EXTRACT),
    Kind.STRAY: _Repair("not part of the store; move it away unless you need it there (`dvc push` uploads it)"),
    Kind.UNCHECKED: _Repair("written by another program; damage of these arrays cannot be detected"),
    Kind.SET_ASIDE: _Repair("remove {damaged} if you do not need it"),
    Kind.CHANGED: _Repair(
        "another run is writing to the store; verify it again after that run", "ecmf-pipe store verify {root}"
    ),
}
"""Explanation of each harmless finding, and how to remove it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A damaged or superfluous piece of a store.

    Attributes:
        kind: Kind of the finding.
        root: The store.
        path: The file or folder concerned.
        message: Details, for example the expected and the actual size.
        clips: Number of clips concerned; None if unknown.
        movable: File or folder that `mend` moves out of the store; None if nothing is moved.
    """

    kind: Kind
    root: Path
    path: Path
    message: str
    clips: int | None = None
    movable: Path | None = None

    @property
    def hint(self) -> str:
        """How to repair it."""
        return self._fill_in(self._repair.hint)

    @property
    def command(self) -> str:
        """Shell command that repairs it; empty if there is none."""
        return self._fill_in(self._repair.command)

    @property
    def _repair(self) -> _Repair:
        return (_DAMAGE | _NOTES).get(self.kind, _MOVE_AND_RECOMPUTE)

    def _fill_in(self, template: str) -> str:
        unit = "batch" if self.kind is Kind.BATCH else "part"
        return template.format(root=self.root, name=self.root.stem, damaged=damaged_folder(self.root), unit=unit)

    def __str__(self) -> str:
        clips = "" if self.clips is None else f" ({self.clips} clip{'' if self.clips == 1 else 's'})"
        return f"{self.kind.value}: {self.path}{clips}: {self.message}"


def damaged_folder(root: Path) -> Path:
    """Return the folder to which damaged parts of a store are moved.

    It is next to the store, because DVC would track it as an output inside the store.
    """
    return root.parent / f".{root.name}.damaged"


@dataclass(frozen=True, slots=True)
class PartCheck:
    """Callable that checks the parts of one settings group.

    Attributes:
        root: The store.
        folder: The settings group.
        dim: D; None if unknown.
        dtype: The stored type; None if unknown.
    """

    root: Path
    folder: Path
    dim: int | None
    dtype: np.dtype[Any] | None

    def __call__(self, name: str, part: PartAttributes) -> Iterator[Finding]:
        """Read all arrays of a part and yield its defects.

        Args:
            name: Name of the part.
            part: Its attributes.

        Raises:
            FileNotFoundError: If the part no longer exists, because it was merged into another.
        """
        folder = self.folder / name
        message = _check_attributes(folder, part)
        if message is not None:
            yield self._finding(Kind.ATTRIBUTES, folder, message, name, part)
            return
        arrays = array_names(folder)
        if not part.clip_id or "values" not in arrays:
            message = "it has no array `values`" if part.clip_id else "its attribute `clip_id` is empty"
            yield self._finding(Kind.EMPTY, folder, message, name, part)
            return
        rows = sum(part.length)
        for array_name in arrays:
            values, kind, message = _read_checked(folder / array_name)
            if values is not None and len(values) != rows:
                kind, message = Kind.SHAPE, f"it has {len(values)} rows, the lengths of its clips add up to {rows}"
            elif values is not None and array_name == "values":
                kind, message = self._check_values(values) or (kind, message)
            if values is not None and kind is None and _is_replaced(array_name, values, part):
                kind, message = Kind.ARRAY, "it is another array than the part was written with"
            if kind is not None:
                yield self._finding(kind, folder / array_name, message, name, part)

    def _check_values(self, values: NDArray[Any]) -> tuple[Kind, str] | None:
        if self.dim is not None and values.shape[1:] != (self.dim,):
            return Kind.SHAPE, f"its shape is {values.shape}, expected (rows, {self.dim})"
        if self.dtype is not None and values.dtype != self.dtype:
            return Kind.SHAPE, f"its type is {values.dtype}, expected {self.dtype}"
        non_finite = int(values.size - np.isfinite(values).sum())
        return (Kind.NOT_FINITE, f"{non_finite} of {values.size} values are NaN or infinite") if non_finite else None

    def _finding(self, kind: Kind, path: Path, message: str, name: str, part: PartAttributes) -> Finding:
        movable = None if kind is Kind.UNCHECKED else self.folder / name
        return Finding(kind, self.root, path, message, len(set(part.clip_id)), movable)


def _check_attributes(folder: Path, part: PartAttributes) -> str | None:
    """Return the defect of the attributes of a part, or None."""
    if any(not isinstance(length, int) or length < 1 for length in part.length):
        return "its attribute `length` has an entry below 1"
    if missing := sorted(set(part.arrays) - {"values", *array_names(folder)}):
        return f"its array {missing[0]} does not exist"
    return None


def _is_replaced(name: str, values: NDArray[Any], part: PartAttributes) -> bool:
    return name in part.arrays and array_identity(values) != part.arrays[name]


def _read_checked(folder: Path) -> tuple[NDArray[Any] | None, Kind | None, str]:
    """Read an array; return its values (None if damaged), the kind of problem (None if intact) and its description.

    An array without a checksum has both values and a problem, `Kind.UNCHECKED`.
    """
    import zarr

    try:
        array = zarr.open_array(folder, mode="r")  # other programs need a valid Zarr document
        has_checksum = _has_checksum(folder)
        values = read_array(folder)
    except StoreError:
        chunk = folder / array.metadata.encode_chunk_key((0,) * array.ndim)
        expected = array.nbytes + (4 if has_checksum else 0)
        if not chunk.is_file():
            return None, Kind.MISSING_CHUNK, f"{chunk} is missing"
        if chunk.stat().st_size < expected:
            return None, Kind.TRUNCATED_CHUNK, f"{chunk} has {chunk.stat().st_size} of {expected} bytes"
        return None, Kind.CORRUPTED_CHUNK, f"{chunk} was changed (another CRC-32C than the stored one)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not folder.parent.is_dir():
            raise FileNotFoundError(folder) from error
        return None, Kind.ARRAY, f"its zarr.json cannot be read ({error})"
    return values, None if has_checksum else Kind.UNCHECKED, "it has no checksum"


def _has_checksum(folder: Path) -> bool:
    codecs = parse_json((folder / "zarr.json").read_bytes()).get("codecs", [])
    return any(codec.get("name") == "crc32c" for codec in codecs)
