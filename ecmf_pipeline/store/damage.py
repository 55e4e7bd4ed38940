"""Reads one part whole and finds what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import StoreError
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.store.format import PartAttributes, array_names, group_attributes, read_array


class Kind(StrEnum):
    """What was found. All but the last group are damage: something cannot be read, or must not be believed."""

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
    ASIDE = "set aside earlier"
    MOVED = "changed meanwhile"

    @property
    def is_damage(self) -> bool:
        """Whether it hinders reading, or falsifies it."""
        return self not in _NOTES


_AGAIN = (
    "`ecmf-pipe store verify --mend {root}` moves the {thing} to {damaged}; then `ecmf-pipe extract --modality {name}` "
    "computes its clips again, and only those (imported features: `ecmf-pipe store import` them again)"
)
_COMPACT = "harmless; `ecmf-pipe store compact {root}` drops them"

_DAMAGE = {
    Kind.ROOT: (
        "`ecmf-pipe store verify --mend {root}` writes it anew where it can be told which features are in use, else "
        "the next `ecmf-pipe extract --modality {name}` does; no features are lost"
    ),
    Kind.SETTINGS: (
        "`ecmf-pipe store verify --mend {root}` writes it anew if params.yaml asks for these very settings; else set "
        "params.yaml to them first, or take the file from a colleague's copy. Its parts stay where they are"
    ),
}
"""How to mend damage that is not in a part or batch."""

_NOTES = {
    Kind.DUPLICATES: _COMPACT,
    Kind.REPLACED: _COMPACT,
    Kind.OUTDATED: (
        "harmless; once `ecmf-pipe extract --modality {name}` has computed the clips' present inputs, "
        "`ecmf-pipe store compact {root}` drops them"
    ),
    Kind.ABSENT: (
        "harmless, and used again when the clips come back; `ecmf-pipe store compact --drop-absent {root}` drops them"
    ),
    Kind.SUPERSEDED: "harmless, a `compact` was killed; `ecmf-pipe store compact {root}` finishes it",
    Kind.LEFTOVERS: "harmless; the next `ecmf-pipe extract --modality {name}` takes them up (if none is running now)",
    Kind.STRAY: "no part of the store; move it away unless you know it (`dvc push` sends it along)",
    Kind.UNCHECKED: "written by another program; damage inside them cannot be found",
    Kind.ASIDE: "remove {damaged} when nobody wants to look at it any more",
    Kind.MOVED: "another run writes to the store: verify again when it has ended",
}
"""What is no damage, and what may be done about it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or superfluous.

    Attributes:
        kind: What.
        root: The store.
        path: Where.
        message: What exactly.
        clips: How many clips it concerns; None where that cannot be told.
        aside: What mending moves out of the store; None where nothing is to be moved.
    """

    kind: Kind
    root: Path
    path: Path
    message: str
    clips: int | None = None
    aside: Path | None = None

    @property
    def mend(self) -> str:
        """How to mend it."""
        thing = "batch" if self.kind is Kind.BATCH else "part"
        return (
            (_DAMAGE | _NOTES)
            .get(self.kind, _AGAIN)
            .format(root=self.root, name=self.root.stem, damaged=damaged_folder(self.root), thing=thing)
        )

    def __str__(self) -> str:
        clips = "" if self.clips is None else f" ({self.clips} clip{'' if self.clips == 1 else 's'})"
        return f"{self.kind.value}: {self.path}{clips}: {self.message}"


def damaged_folder(root: Path) -> Path:
    """Where damaged parts of a store are set aside: beside it, for DVC must not take them for an output."""
    return root.parent / f".{root.name}.damaged"


@dataclass(frozen=True, slots=True)
class PartCheck:
    """Checks the parts of one settings group.

    Attributes:
        root: The store.
        folder: The settings group.
        dim: D; None where nobody knows it.
        dtype: The stored type; None where nobody knows it.
    """

    root: Path
    folder: Path
    dim: int | None
    dtype: np.dtype[Any] | None

    def __call__(self, name: str, part: PartAttributes) -> Iterator[Finding]:
        """Find what is wrong with a part whose attributes can be read.

        Raises:
            FileNotFoundError: When the part is gone (it was merged into another meanwhile).
        """
        folder = self.folder / name
        message = _wrong_attributes(folder, part)
        if message is not None:
            yield self._finding(Kind.ATTRIBUTES, folder, message, name, part)
            return
        arrays = array_names(folder)
        if not part.clip_id or "values" not in arrays:
            message = "no array `values`" if part.clip_id else "it names no clips"
            yield self._finding(Kind.EMPTY, folder, message, name, part)
            return
        rows = sum(part.length)
        for array_name in arrays:
            values, kind, message = _read(folder / array_name)
            if values is not None and len(values) != rows:
                kind, message = Kind.SHAPE, f"{len(values)} rows, its clips' lengths add up to {rows}"
            elif values is not None and array_name == "values":
                kind, message = self._wrong_values(values) or (kind, message)
            if kind is not None:
                yield self._finding(kind, folder / array_name, message, name, part)

    def _wrong_values(self, values: NDArray[Any]) -> tuple[Kind, str] | None:
        if self.dim is not None and values.shape[1:] != (self.dim,):
            return Kind.SHAPE, f"{values.shape}, the store holds (rows, {self.dim})"
        if self.dtype is not None and values.dtype != self.dtype:
            return Kind.SHAPE, f"{values.dtype}, the store holds {self.dtype}"
        odd = int(values.size - np.isfinite(values).sum())
        return (Kind.NOT_FINITE, f"{odd} of {values.size} values are NaN or infinite") if odd else None

    def _finding(self, kind: Kind, path: Path, message: str, name: str, part: PartAttributes) -> Finding:
        aside = None if kind is Kind.UNCHECKED else self.folder / name
        return Finding(kind, self.root, path, message, len(set(part.clip_id)), aside)


def _wrong_attributes(folder: Path, part: PartAttributes) -> str | None:
    if any(not isinstance(length, int) or length < 1 for length in part.length):
        return "it names a length below 1"
    # The end of a part's name is a hash of what it says, so that a changed letter of a clip's name is found.
    if not folder.name.endswith(sha256_text(json.dumps(group_attributes(folder)))[:8]):
        return "what it says of its rows is not what was written, or it was renamed"
    return None


def _read(folder: Path) -> tuple[NDArray[Any] | None, Kind | None, str]:
    """An array's values, or what is wrong with it; both where they are whole but unchecked."""
    import zarr

    try:
        array = zarr.open_array(folder, mode="r")  # other programs read the store by its documents alone
        has_checksum = _has_checksum(folder)
        values = read_array(folder)
    except StoreError:
        chunk = folder / array.metadata.encode_chunk_key((0,) * array.ndim)
        expected = array.nbytes + (4 if has_checksum else 0)
        if not chunk.is_file():
            return None, Kind.MISSING_CHUNK, f"{chunk} is missing"
        if chunk.stat().st_size < expected:
            return None, Kind.TRUNCATED_CHUNK, f"{chunk} has {chunk.stat().st_size} of {expected} bytes"
        return None, Kind.CORRUPTED_CHUNK, f"{chunk} is not what was written (its CRC-32C differs)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not folder.parent.is_dir():
            raise FileNotFoundError(folder) from error
        return None, Kind.ARRAY, f"its zarr.json cannot be read ({error})"
    return values, None if has_checksum else Kind.UNCHECKED, "its bytes have no checksum"


def _has_checksum(folder: Path) -> bool:
    codecs = json.loads((folder / "zarr.json").read_bytes()).get("codecs", [])
    return any(codec.get("name") == "crc32c" for codec in codecs)
