"""Features that come from elsewhere: a folder of npy files, or an HDF5 file. Nothing in them is trusted."""

from __future__ import annotations

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import InputError, MissingInput, UnusableFeatures

LARGEST = 2**29
"""Bytes that one clip's features may take (a minute of 1024-d rows at 50 a second takes a fortieth)."""

_BROKEN_HEADERS = (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError, OverflowError, EOFError)
"""What NumPy's reader of headers raises on headers that are none."""
_BROKEN_HDF5 = (OSError, RuntimeError, ValueError, KeyError, TypeError)
"""What h5py raises on objects that are damaged."""


ArrayHeader = tuple[tuple[int, ...], np.dtype[Any]]
"""What an array says of itself: its shape, (D,) or (T, D), and its type, a real number's."""


def check_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse what cannot be one clip's features.

    Raises:
        UnusableFeatures: When the type is no real number, there are not one or two dimensions, or the size is absurd.
    """
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        what = "Python objects" if dtype.hasobject else str(dtype)[:40]
        raise UnusableFeatures(f"it holds {what}, not numbers (float16, float32, float64 or integers)")
    if len(shape) not in {1, 2}:
        raise UnusableFeatures(f"its shape is {shape}; features are (D,) or (T, D)")
    if min(shape) < 1:
        raise UnusableFeatures(f"it is empty (its shape is {shape})")
    if (size := dtype.itemsize * math.prod(shape)) > LARGEST:
        raise UnusableFeatures(f"its shape is {shape}: {size / 2**20:,.0f} MB are too much for one clip")


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
    check_header(shape, dtype)
    found, wanted = size - file.tell(), dtype.itemsize * math.prod(shape)
    if found != wanted:
        raise UnusableFeatures(f"{found} bytes of values stand in it where its shape {shape} takes {wanted}")
    return shape, dtype


class FeatureSource(ABC):
    """One array a name.

    Attributes:
        path: Where it stands.
        names: What there is, in order. A name may stand twice (a file and a folder, say).
        passed_over: What stands beside the features and is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.passed_over: list[str] = []

    @abstractmethod
    def width(self, name: str) -> int:
        """D, told without reading the values.

        Raises:
            UnusableFeatures: When there is no array of features under that name.
        """

    @abstractmethod
    def read(self, name: str) -> NDArray[Any]:
        """The array, (D,) or (T, D), any real type.

        Raises:
            UnusableFeatures: When it cannot be read whole.
        """


@contextmanager
def open_source(path: Path) -> Iterator[FeatureSource]:
    """Open what features are to be imported from.

    Args:
        path: A folder with ``<name>.npy`` of each clip, or with folders ``<name>`` of one npy file a row; or an HDF5
            file with one dataset a clip, at its root, in the one group there is, or alone in a group of the clip's
            name.

    Raises:
        MissingInput: When there is nothing at ``path``.
        InputError: When it is neither.
    """
    if not path.exists():
        raise MissingInput(f"{path} is missing", "give a folder of npy files, or an HDF5 file")
    if path.is_dir():
        yield NpyFolder(path)
        return
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(
            f"{path} is neither a folder nor an HDF5 file ({str(error)[:100]})",
            "give a folder that holds <name>.npy of each clip, or an HDF5 file with one dataset a clip",
        ) from error
    with file:
        yield Hdf5File(path, file)


class NpyFolder(FeatureSource):
    """``<name>.npy``, or folders ``<name>`` of one npy file a row, in the order of their names."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._files: dict[str, Path] = {}
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                stem, dot, extension = entry.name.rpartition(".")
                if entry.name.startswith("."):
                    continue
                kind = _kind(entry)
                if kind == "folder":
                    self._add(entry.name, Path(entry.path))
                elif stem and dot and extension.lower() == "npy" and kind == "file":
                    self._add(stem, Path(entry.path))
                else:
                    self.passed_over.append(entry.name)

    def _add(self, name: str, path: Path) -> None:
        self.names.append(name)
        self._files[name] = path

    def width(self, name: str) -> int:
        """D, of a folder that of its first row."""
        path = self._files[name]
        shape, _ = npy_header(self._rows(path)[0] if path.is_dir() else path)
        return shape[-1]

    def read(self, name: str) -> NDArray[Any]:
        """The array; the rows of a folder, one after another."""
        path = self._files[name]
        if not path.is_dir():
            return read_npy(path)
        files = self._rows(path)
        headers = [npy_header(file) for file in files]
        if any(len(shape) == 2 and shape[0] != 1 for shape, _ in headers):
            raise UnusableFeatures("a file of its folder holds several rows; one file a row is expected")
        if len(widths := {shape[-1] for shape, _ in headers}) > 1:
            raise UnusableFeatures(f"its rows are ragged: {', '.join(map(str, sorted(widths)))} wide")
        if sum(dtype.itemsize * shape[-1] for shape, dtype in headers) > LARGEST:
            raise UnusableFeatures(f"its {len(files)} rows are too much for one clip")
        return np.stack([read_npy(file).reshape(-1) for file in files])

    def _rows(self, folder: Path) -> list[Path]:
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.name.lower().endswith(".npy") and entry.is_file()]
        except OSError as error:
            raise UnusableFeatures(f"its folder cannot be read ({error.strerror})") from error
        names = [name for name in names if not name.startswith(".")]
        if not names:
            raise UnusableFeatures("its folder holds no npy files")
        return [folder / name for name in sorted(names, key=_in_natural_order)]


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link that leads to itself
        return "other"


class Hdf5File(FeatureSource):
    """One dataset a clip."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        super().__init__(path)
        self._group: h5py.Group = file
        self.names = list(file)
        if len(self.names) == 1 and file.get(self.names[0], getclass=True, getlink=True) is h5py.HardLink:
            below = _follow(file, self.names[0])
            if isinstance(below, h5py.Group):
                self._group, self.names = below, list(below)

    def width(self, name: str) -> int:
        """D."""
        return int(_dataset(self._group, name).shape[-1])

    def read(self, name: str) -> NDArray[Any]:
        """The array."""
        dataset = _dataset(self._group, name)
        try:
            _refuse_holes(dataset)
            return np.asarray(dataset[()])
        except _BROKEN_HDF5 as error:
            raise UnusableFeatures(f"it cannot be read ({str(error)[:100]})") from error


def _dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """The dataset of that name, or the one in the group of that name."""
    found = _follow(group, name)
    if isinstance(found, h5py.Group):
        inner = list(found)
        if len(inner) != 1:
            raise UnusableFeatures(f"it is a group of {len(inner)} members, not one dataset")
        found = _follow(found, inner[0])
    if not isinstance(found, h5py.Dataset):
        raise UnusableFeatures("it is no dataset")
    try:
        if found.is_virtual or found.id.get_create_plist().get_external_count():
            raise UnusableFeatures("its values stand in another file")
        check_header(found.shape or (), found.dtype)
    except _BROKEN_HDF5 as error:
        raise UnusableFeatures(f"it cannot be read ({str(error)[:100]})") from error
    return found


def _follow(group: h5py.Group, name: str) -> Any:
    """The object of that name, unless it is a link to somewhere else, also outside of the file."""
    try:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UnusableFeatures("it is a link, not a dataset")
        return group[name]
    except _BROKEN_HDF5 as error:
        raise UnusableFeatures(f"it cannot be opened ({str(error)[:100]})") from error


def _refuse_holes(dataset: h5py.Dataset) -> None:
    """HDF5 reads what was never written as zeros."""
    if dataset.chunks is None:
        whole = dataset.id.get_storage_size() > 0
    else:
        wanted = int(np.prod([-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)]))
        whole = dataset.id.get_num_chunks() == wanted
    if not whole:
        raise UnusableFeatures("it was never filled with values, or not wholly")


def _in_natural_order(name: str) -> list[Any]:
    """``frame_2`` before ``frame_10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
