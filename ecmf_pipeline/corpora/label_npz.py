"""The baseline's label file: dicts pickled inside an npz, read without running anything that a pickle may hold.

``track1_label_6way.npz`` has entries such as ``train_corpus`` and ``test1_corpus``, each a 0-d object array around
``{name: {"emo": label}}``. NumPy would unpickle it with all that a pickle can do; here the array's envelope is taken
apart by stand-ins that do nothing, and any other global is refused.
"""

from __future__ import annotations

import io
import lzma
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.errors import InputError, MissingInput

TRAIN_ENTRY, TEST_ENTRY = "train_corpus", "test1_corpus"
LABEL_KEY = "emo"
MOST_BYTES = 512 * 1024**2
"""Of an entry once unpacked; the challenge's has a few hundred kilobytes."""

_ENCRYPTED = 0x1
"""In the flags of a zip member."""

_DAMAGED = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,  # a compression, or an encryption, that zipfile does not know
    OSError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    zlib.error,
)
"""What zipfile raises at archives that are none, or are damaged."""

_HINT = "it must hold plain dictionaries of strings, as the baseline writes them; nothing in it was run"


def read_label_npz(path: Path, entry: str = TRAIN_ENTRY) -> dict[str, str]:
    """Labels by clip name, in the file's order.

    Args:
        path: The npz file.
        entry: Which corpus: ``train_corpus``, ``test1_corpus``...

    Raises:
        MissingInput: When there is no such file.
        InputError: When it is no npz file, lacks the entry, or holds anything but dictionaries and strings.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing", "give the path of the baseline's label file")
    try:
        with zipfile.ZipFile(path) as archive:
            content = _member(archive, entry, path)
    except _DAMAGED as error:
        raise InputError(f"{path} is not an npz file, or is damaged ({error})", _HINT) from error
    return _labels(_unpacked(content, f"{path}: {entry}"), f"{path}: {entry}")


def entries_of(path: Path) -> list[str]:
    """The names of what an npz file holds, sorted.

    Raises:
        InputError: When it is no npz file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(name.removesuffix(".npy") for name in archive.namelist())
    except _DAMAGED as error:
        raise InputError(f"{path} is not an npz file, or is damaged ({error})", _HINT) from error


def _member(archive: zipfile.ZipFile, entry: str, path: Path) -> bytes:
    members = {member.filename: member for member in archive.infolist()}
    if f"{entry}.npy" not in members:
        if entry in members:
            raise InputError(f"{path}: {entry} is no array: its name does not end in .npy", _HINT)
        names = sorted(name.removesuffix(".npy") for name in members)
        raise InputError(f"{path} has no entry {entry!r}; it has {', '.join(names) or 'none'}")
    member = members[f"{entry}.npy"]
    if member.flag_bits & _ENCRYPTED:
        raise InputError(f"{path}: {entry} is encrypted", "write it without a password")
    if member.file_size > MOST_BYTES:
        raise InputError(f"{path}: {entry} unpacks to more than {MOST_BYTES} bytes", _HINT)
    return archive.read(member)


def _unpacked(content: bytes, where: str) -> Any:
    stream = io.BytesIO(content)
    try:
        from numpy.lib import format as npy  # here: few corpora have such a file, and numpy takes 0.1 s to import

        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        if shape != () or not dtype.hasobject:
            raise InputError(f"{where} is an array of shape {shape} and type {dtype}, not one dictionary", _HINT)
        array = _Inert(stream).load()
    except pickle.UnpicklingError as error:
        raise InputError(f"{where} is refused: {error}", _HINT) from error
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        EOFError,
        MemoryError,
        OverflowError,
        RecursionError,
    ) as error:
        raise InputError(f"{where} is damaged ({type(error).__name__}: {error})", _HINT) from error
    if not isinstance(array, _Array) or not isinstance(array.items, list) or len(array.items) != 1:
        raise InputError(f"{where} is not an array of one dictionary", _HINT)
    return array.items[0]


def _labels(names: Any, where: str) -> dict[str, str]:
    if type(names) is not dict:
        raise InputError(f"{where} holds a {type(names).__name__}, not a dictionary", _HINT)
    labels = {}
    for name, values in names.items():
        strings = (
            type(name) is str and type(values) is dict and all(type(one) is str for kv in values.items() for one in kv)
        )
        if not strings or LABEL_KEY not in values:
            raise InputError(f"{where}: {str(name)[:60]!r} has no dictionary of strings with {LABEL_KEY!r}", _HINT)
        labels[name] = values[LABEL_KEY]
    return labels


class _Array:
    """Stands in for the array around the dictionary: takes its state, and does nothing."""

    items: Any = None

    def __setstate__(self, state: Any) -> None:
        self.items = state[4] if isinstance(state, tuple) and len(state) == 5 else None


class _Kind:
    """Stands in for ``numpy.dtype`` and ``numpy.ndarray``."""

    def __init__(self, *_arguments: Any) -> None:
        """Takes what the pickle says, and keeps nothing."""

    def __setstate__(self, state: Any) -> None:
        """The same."""


class _Reconstruct:
    """Stands in for the function that makes an array; has no attributes, since a pickle could set them."""

    __slots__ = ()

    def __call__(self, *_arguments: Any) -> _Array:
        return _Array()


class _Inert(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        reconstruct = _Reconstruct()
        # Of each reader its own: a stand-in that one pickle has got hold of is shown to no other.
        self._envelope: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): _Kind,
            ("numpy", "dtype"): _Kind,
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._envelope:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._envelope[module, name]

    def persistent_load(self, _pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside")
