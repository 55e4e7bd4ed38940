"""The arrays of a part, read and widened without more ado than their bytes need.

Zarr can read every array of a store, and reads those that another program wrote. But on arrays of the one form that we
write, its part in loading 132,000 clips was larger than that of the bytes, and so was NumPy's widening of float16
(ADR 4): both are done by hand here.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

_PLAIN_TYPES = {"float16", "float32", "float64", "int16", "int32", "int64"}
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C = {"name": "crc32c"}
_CRC_BYTES = 4
_BLOCK = 1 << 16
"""Elements that are widened at once: they stay in a core's cache between the steps."""


def read_whole(folder: Path) -> NDArray[Any]:
    """Read an array of one chunk.

    Raises:
        FileNotFoundError: When its document or its chunk is not there (Zarr itself would read zeros).
        OSError, ValueError, KeyError, TypeError: When it is damaged.
    """
    document = json.loads((folder / "zarr.json").read_bytes())
    if not _is_plain(document):
        return _read_by_zarr(folder)
    dtype = np.dtype(document["data_type"]).newbyteorder("<")
    shape = tuple(document["shape"])
    has_crc = _CRC32C in document["codecs"]
    data = np.fromfile(folder.joinpath("c", *["0"] * len(shape)), np.uint8)
    expected = dtype.itemsize * int(np.prod(shape)) + _CRC_BYTES * has_crc
    if len(data) != expected:
        raise ValueError(f"its chunk has {len(data)} of {expected} bytes")
    if has_crc:
        data, stored = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
        if google_crc32c.value(data) != int.from_bytes(stored.tobytes(), "little"):
            raise ValueError("its chunk is not what was written: the CRC-32C differs")
    values: NDArray[Any] = data.view(dtype).reshape(shape)
    return values


def widen(values: NDArray[Any], out: NDArray[np.float32]) -> None:
    """Write features as float32.

    Args:
        values: Of any type.
        out: Where they go, of the same shape, contiguous.
    """
    if values.dtype != np.float16 or not values.flags.c_contiguous or _has_odd_ones(values):
        out[...] = values
        return
    halves, floats = values.reshape(-1).view(np.int16), out.reshape(-1)
    bits = floats.view(np.int32)
    for start in range(0, len(halves), _BLOCK):
        block = bits[start : start + _BLOCK]
        block[...] = halves[start : start + _BLOCK]  # the sign now fills the upper half
        np.left_shift(block, 13, out=block)  # 10 bits of mantissa become 23
        np.bitwise_and(block, np.int32(-0x7000_2000), out=block)  # sign, 5 bits of exponent, mantissa
        # The exponents' biases are 15 and 127; the product is exact, for subnormal numbers too.
        np.multiply(floats[start : start + _BLOCK], np.float32(2.0**112), out=floats[start : start + _BLOCK])


def _has_odd_ones(values: NDArray[Any]) -> bool:
    """Whether float16 values hold NaN or infinity (all bits of the exponent set)."""
    return bool(values.size) and int((values.view(np.uint16) << 1).max()) >= 0xF800


def _is_plain(document: dict[str, Any]) -> bool:
    """Whether an array has the one form that we write."""
    return bool(
        document["zarr_format"] == 3
        and document["node_type"] == "array"
        and document["data_type"] in _PLAIN_TYPES
        and document["chunk_grid"] == {"name": "regular", "configuration": {"chunk_shape": document["shape"]}}
        and document["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and document["codecs"] in ([_LITTLE_ENDIAN], [_LITTLE_ENDIAN, _CRC32C])
        and not document.get("storage_transformers")
    )


def _read_by_zarr(folder: Path) -> NDArray[Any]:
    import zarr  # takes longer to load than a run with nothing to do

    array = zarr.open_array(folder, mode="r")
    if array.nchunks != 1:
        raise ValueError(f"it has {array.nchunks} chunks, the arrays of a part have one")
    values = np.asarray(array[...])
    chunk = folder / array.metadata.encode_chunk_key((0,) * array.ndim)
    if not chunk.is_file():  # asked afterwards: a part that is moved away while it is read must not read as zeros
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(chunk))
    return values
