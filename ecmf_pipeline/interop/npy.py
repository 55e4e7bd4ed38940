"""Reading an npy file of unknown origin: nothing in it is executed, and no memory is taken that it cannot fill."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from ecmf_pipeline.errors import ClipError

LARGEST = 2**29
"""Bytes that one clip's features may take (a minute of 1024-d rows at 50 a second takes a fortieth)."""

_BROKEN_HEADERS = (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError, OverflowError, EOFError)
"""What NumPy's reader of headers raises on headers that are none."""


class UnusableFeatures(ClipError):
    """What is to be imported for a clip is no array of features."""


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What an array says of itself.

    Attributes:
        shape: (D,) or (T, D).
        dtype: A real number's type.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def width(self) -> int:
        """D."""
        return self.shape[-1]


def checked_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> ArrayHeader:
    """Refuse what cannot be one clip's features.

    Raises:
        UnusableFeatures: When the type is no real number, there are not one or two dimensions, or the size is absurd.
    """
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise UnusableFeatures(f"it holds {_shown(dtype)}, not numbers (float16, float32, float64 or integers)")
    if len(shape) not in {1, 2}:
        raise UnusableFeatures(f"its shape is {shape}; features are (D,) or (T, D)")
    if min(shape) < 1:
        raise UnusableFeatures(f"it is empty (its shape is {shape})")
    if (size := dtype.itemsize * math.prod(shape)) > LARGEST:
        raise UnusableFeatures(f"its shape is {shape}: {size / 2**20:,.0f} MB are too much for one clip")
    return ArrayHeader(shape, dtype)


def npy_header(path: Path) -> ArrayHeader:
    """Read what an npy file says of itself.

    Raises:
        UnusableFeatures: When it is no npy file of features, or is cut off.
    """
    try:
        with path.open("rb") as file:
            return _header(file)
    except OSError as error:
        raise UnusableFeatures(f"it cannot be read ({error.strerror})") from error


def read_npy(path: Path) -> NDArray[Any]:
    """Read an array as it is, (D,) or (T, D).

    Raises:
        UnusableFeatures: When it is no npy file of features, or is cut off.
    """
    try:
        with path.open("rb") as file:
            _header(file)
            file.seek(0)
            return np.asarray(np.load(file, allow_pickle=False))
    except OSError as error:
        raise UnusableFeatures(f"it cannot be read ({error.strerror})") from error


def _header(file: BinaryIO) -> ArrayHeader:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise UnusableFeatures("it is empty (0 bytes)")
    try:
        version = npy_format.read_magic(file)
        if version not in {(1, 0), (2, 0)}:  # 3.0 is for structured types with foreign names
            raise UnusableFeatures(f"it has version {version} of the npy format")
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = read(file)
    except _BROKEN_HEADERS as error:
        raise UnusableFeatures(f"it is no npy file ({str(error)[:100]})") from error
    header = checked_header(shape, dtype)
    found, wanted = size - file.tell(), dtype.itemsize * math.prod(shape)
    if found != wanted:
        raise UnusableFeatures(f"{found} bytes of values stand in it where its shape {shape} takes {wanted}")
    return header


def _shown(dtype: np.dtype[Any]) -> str:
    return "Python objects" if dtype.hasobject else str(dtype)[:40]
