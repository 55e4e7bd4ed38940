"""What goes into a store and what comes out of it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ecmf_pipeline.core.errors import StoreError


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """The features of one clip.

    Attributes:
        clip_id: The clip.
        digest: Digest of the input they were computed from.
        values: Features, (T, D), T at least 1.
        side: Further arrays with one entry a row (``times``, ``boxes``...), (T,) or (T, k).
        versions: Version of each library that computed them, by name; empty where nobody knows.
    """

    clip_id: str
    digest: str
    values: NDArray[Any]
    side: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Features:
    """Pooled features in the order they were asked for.

    Attributes:
        values: (n, D), float32, contiguous; NaN rows where the clip has none.
        present: (n,), whether the clip has features.
    """

    values: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sequences:
    """Frame-level features in the order they were asked for, padded to the longest.

    Attributes:
        values: (n, T, D), float32, contiguous; NaN where there is nothing.
        mask: (n, T), which of them are there; a clip without features has none.
    """

    values: NDArray[np.float32]
    mask: NDArray[np.bool_]


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


def pack(rows: Sequence[FeatureRow]) -> bytes:
    """Rows as the bytes of one ``npz`` file; all must have the same arrays beside their values."""
    about = [[row.clip_id, row.digest, len(row.values), dict(row.versions)] for row in rows]
    arrays: dict[str, Any] = {"values": np.concatenate([row.values for row in rows])}
    for name in rows[0].side:
        arrays[f"side.{name}"] = np.concatenate([np.asarray(row.side[name]) for row in rows])
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def unpack(payload: bytes) -> list[FeatureRow]:
    """The rows that `pack` packed.

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
    for clip_id, digest, length, *versions in about:  # batches from before versions were kept have none
        span = slice(start, start + length)
        side = {name.removeprefix("side."): array[span] for name, array in arrays.items()}
        rows.append(FeatureRow(clip_id, digest, values[span], side, *versions))
        start += length
    return rows
