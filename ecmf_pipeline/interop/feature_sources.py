"""Read features from other programs: a folder of npy files, or an HDF5 file. All input is validated."""

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
from ecmf_pipeline.core.files import LFS_COMMAND, LFS_HINT, LFS_PROBLEM, is_lfs_pointer

MAX_CLIP_BYTES = 2**29
"""Maximum bytes of the features of one clip: 40 times those of a minute of 1024-d rows at 50 rows per second."""

_HEADER_ERRORS = (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError, OverflowError, EOFError)
"""The errors that NumPy raises for invalid npy headers."""
_HDF5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError)
"""The errors that h5py raises for damaged objects."""


ArrayHeader = tuple[tuple[int, ...], np.dtype[Any]]
"""The shape of an array, (D,) or (T, D), and its real data type."""


def check_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check that an array can be the features of one clip.

    Raises:
        UnusableFeatures: If the data type is not real, there are not one or two dimensions, or the array is empty or
            larger than `MAX_CLIP_BYTES`.
    """
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        content = "Python objects" if dtype.hasobject else str(dtype)[:40]
        raise UnusableFeatures(f"the array holds {content}, not float16, float32, float64 or integers")
    if len(shape) not in {1, 2}:
        raise UnusableFeatures(f"the array has shape {shape}, not (D,) or (T, D)")
    if min(shape) < 1:
        raise UnusableFeatures(f"the array is empty (shape {shape})")
    if (size := dtype.itemsize * math.prod(shape)) > MAX_CLIP_BYTES:
        limit = MAX_CLIP_BYTES / 2**20
        raise UnusableFeatures(f"the array of shape {shape} takes {size / 2**20:,.0f} MB; the limit is {limit:,.0f} MB")


def npy_header(path: Path) -> ArrayHeader:
    """Read shape and data type of an npy file.

    Raises:
        UnusableFeatures: If the file is not an npy file of features, or is truncated.
    """
    try:
        with path.open("rb") as file:
            return _read_header(file)
    except OSError as error:
        raise UnusableFeatures(f"the file cannot be read ({error.strerror})") from error


def read_npy(path: Path) -> NDArray[Any]:
    """Read the array of an npy file, (D,) or (T, D).

    Raises:
        UnusableFeatures: If the file is not an npy file of features, or is truncated.
    """
    try:
        with path.open("rb") as file:
            _read_header(file)
            file.seek(0)
            return np.asarray(np.load(file, allow_pickle=False))
    except OSError as error:
        raise UnusableFeatures(f"the file cannot be read ({error.strerror})") from error


def _read_header(file: BinaryIO) -> ArrayHeader:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise UnusableFeatures("the file is empty (0 bytes)")
    try:
        version = npy_format.read_magic(file)
        if version not in {(1, 0), (2, 0)}:  # 3.0 is for structured types with non-ASCII names
            raise UnusableFeatures(f"the file has unsupported npy version {version}")
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = read(file)
    except _HEADER_ERRORS as error:
        if is_lfs_pointer(file.name):
            raise UnusableFeatures(f"the file {LFS_PROBLEM}; run {LFS_COMMAND}") from error
        raise UnusableFeatures(f"the file is not an npy file ({str(error)[:100]})") from error
    check_header(shape, dtype)
    actual, expected = size - file.tell(), dtype.itemsize * math.prod(shape)
    if actual != expected:
        raise UnusableFeatures(f"the file holds {actual} bytes of values; shape {shape} needs {expected}")
    return shape, dtype


class FeatureSource(ABC):
    """A source with one array per name.

    Attributes:
        path: The path of the source.
        names: The names in order. A name may occur twice, for example as a file and as a folder.
        skipped_names: Names of other files that are skipped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.skipped_names: list[str] = []

    @abstractmethod
    def width(self, name: str) -> int:
        """Return the feature dimension D without reading the values.

        Raises:
            UnusableFeatures: If the name has no array of features.
        """

    @abstractmethod
    def read(self, name: str) -> NDArray[Any]:
        """Read the array, (D,) or (T, D), of any real data type.

        Raises:
            UnusableFeatures: If the array cannot be read completely.
        """


@contextmanager
def open_source(path: Path) -> Iterator[FeatureSource]:
    """Open a source of features.

    Args:
        path: A folder with one ``<name>.npy`` per clip, or with one folder ``<name>`` per clip and one npy file per
            row in it. Or an HDF5 file with one dataset per clip: at its root, in its only group, or as the only
            dataset in a group with the name of the clip.

    Raises:
        MissingInput: If ``path`` does not exist.
        InputError: If ``path`` is neither a folder nor an HDF5 file, or is a Git LFS pointer.
    """
    if not path.exists():
        raise MissingInput(f"{path} does not exist", "give a folder of npy files, or an HDF5 file")
    if path.is_dir():
        yield NpyFolder(path)
        return
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if is_lfs_pointer(path):
            raise InputError(f"{path} {LFS_PROBLEM}", LFS_HINT, command=LFS_COMMAND) from error
        raise InputError(
            f"{path} is neither a folder nor an HDF5 file ({str(error)[:100]})",
            "give a folder with one <name>.npy per clip, or an HDF5 file with one dataset per clip",
        ) from error
    with file:
        yield Hdf5File(path, file)


class NpyFolder(FeatureSource):
    """A folder of ``<name>.npy`` files, or of folders ``<name>`` with one npy file per row, sorted by name."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._files: dict[str, Path] = {}
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                stem, dot, extension = entry.name.rpartition(".")
                if entry.name.startswith("."):
                    continue
                kind = _entry_kind(entry)
                if kind == "folder":
                    self._add(entry.name, Path(entry.path))
                elif stem and dot and extension.lower() == "npy" and kind == "file":
                    self._add(stem, Path(entry.path))
                else:
                    self.skipped_names.append(entry.name)

    def _add(self, name: str, path: Path) -> None:
        self.names.append(name)
        self._files[name] = path

    def width(self, name: str) -> int:
        """Return the feature dimension D; for a folder, that of its first row."""
        path = self._files[name]
        shape, _ = npy_header(self._rows(path)[0] if path.is_dir() else path)
        return shape[-1]

    def read(self, name: str) -> NDArray[Any]:
        """Read the array; the rows of a folder are stacked."""
        path = self._files[name]
        if not path.is_dir():
            return read_npy(path)
        files = self._rows(path)
        headers = [npy_header(file) for file in files]
        if any(len(shape) == 2 and shape[0] != 1 for shape, _ in headers):
            raise UnusableFeatures("a file of the folder holds several rows instead of one")
        if len(widths := {shape[-1] for shape, _ in headers}) > 1:
            raise UnusableFeatures(f"the rows have different dimensions: {', '.join(map(str, sorted(widths)))}")
        if sum(dtype.itemsize * shape[-1] for shape, dtype in headers) > MAX_CLIP_BYTES:
            limit = MAX_CLIP_BYTES / 2**20
            raise UnusableFeatures(f"the {len(files)} rows take more than the limit of {limit:,.0f} MB")
        return np.stack([read_npy(file).reshape(-1) for file in files])

    def _rows(self, folder: Path) -> list[Path]:
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.name.lower().endswith(".npy") and entry.is_file()]
        except OSError as error:
            raise UnusableFeatures(f"the folder cannot be read ({error.strerror})") from error
        names = [name for name in names if not name.startswith(".")]
        if not names:
            raise UnusableFeatures("the folder holds no npy files")
        return [folder / name for name in sorted(names, key=_natural_key)]


def _entry_kind(entry: os.DirEntry[str]) -> str:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # for example a link to itself
        return "other"


class Hdf5File(FeatureSource):
    """An HDF5 file with one dataset per clip."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        super().__init__(path)
        self._group: h5py.Group = file
        self.names = list(file)
        if len(self.names) == 1 and file.get(self.names[0], getclass=True, getlink=True) is h5py.HardLink:
            below = _get_object(file, self.names[0])
            if isinstance(below, h5py.Group):
                self._group, self.names = below, list(below)

    def width(self, name: str) -> int:
        """Return the feature dimension D."""
        return int(_find_dataset(self._group, name).shape[-1])

    def read(self, name: str) -> NDArray[Any]:
        """Read the array."""
        dataset = _find_dataset(self._group, name)
        try:
            _check_allocated(dataset)
            return np.asarray(dataset[()])
        except _HDF5_ERRORS as error:
            raise UnusableFeatures(f"the dataset cannot be read ({str(error)[:100]})") from error


def _find_dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return the dataset ``name``, or the only dataset in the group ``name``."""
    item = _get_object(group, name)
    if isinstance(item, h5py.Group):
        members = list(item)
        if len(members) != 1:
            raise UnusableFeatures(f"the object is a group of {len(members)} members, not one dataset")
        item = _get_object(item, members[0])
    if not isinstance(item, h5py.Dataset):
        raise UnusableFeatures("the object is not a dataset")
    try:
        if item.is_virtual or item.id.get_create_plist().get_external_count():
            raise UnusableFeatures("the values of the dataset are in another file")
        check_header(item.shape or (), item.dtype)
    except _HDF5_ERRORS as error:
        raise UnusableFeatures(f"the dataset cannot be read ({str(error)[:100]})") from error
    return item


def _get_object(group: h5py.Group, name: str) -> Any:
    """Return the object ``name``; links are refused, because they may point outside the file."""
    try:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UnusableFeatures("the object is a link, not a dataset")
        return group[name]
    except _HDF5_ERRORS as error:
        raise UnusableFeatures(f"the object cannot be opened ({str(error)[:100]})") from error


def _check_allocated(dataset: h5py.Dataset) -> None:
    """Refuse a dataset with unwritten parts: HDF5 would read them as zeros."""
    if dataset.chunks is None:
        is_complete = dataset.id.get_storage_size() > 0
    else:
        expected = int(np.prod([-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)]))
        is_complete = dataset.id.get_num_chunks() == expected
    if not is_complete:
        raise UnusableFeatures("the dataset has parts that were never written")


def _natural_key(name: str) -> list[Any]:
    """Return a sort key that orders ``frame_2`` before ``frame_10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
