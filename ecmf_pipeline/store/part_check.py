"""Reads one part whole and finds what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.errors import StoreError
from ecmf_pipeline.files import sha256_text
from ecmf_pipeline.store.findings import Finding, Kind
from ecmf_pipeline.store.format import group_attributes
from ecmf_pipeline.store.parts import PartAttributes, array_names, read_array


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
        zarr.open_array(folder, mode="r")  # other programs read the store by its documents alone
        values = read_array(folder)
    except StoreError as error:
        return None, *_reason(folder, error)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not folder.parent.is_dir():
            raise FileNotFoundError(folder) from error
        return None, Kind.ARRAY, f"its zarr.json cannot be read ({error})"
    return values, None if _has_checksum(folder) else Kind.UNCHECKED, "its bytes have no checksum"


def _reason(folder: Path, error: StoreError) -> tuple[Kind, str]:
    import zarr

    try:
        array = zarr.open_array(folder, mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        return Kind.ARRAY, error.what
    chunk = folder / array.metadata.encode_chunk_key((0,) * array.ndim)
    expected = array.nbytes + (4 if _has_checksum(folder) else 0)
    if not chunk.is_file():
        return Kind.MISSING_CHUNK, f"{chunk} is missing"
    if chunk.stat().st_size < expected:
        return Kind.TRUNCATED_CHUNK, f"{chunk} has {chunk.stat().st_size} of {expected} bytes"
    return Kind.CORRUPTED_CHUNK, f"{chunk} is not what was written (its CRC-32C differs)"


def _has_checksum(folder: Path) -> bool:
    codecs = json.loads((folder / "zarr.json").read_bytes()).get("codecs", [])
    return any(codec.get("name") == "crc32c" for codec in codecs)
