"""Read the baseline's label file, pickled dictionaries in an npz, without executing code from the pickle.

``track1_label_6way.npz`` has entries such as ``train_corpus`` and ``test1_corpus``. Each is a 0-d object array that
holds ``{name: {"emo": label}}``. NumPy would unpickle it without restriction. Here stubs without effect replace the
array types, and any other global is refused.
"""

from __future__ import annotations

import io
import lzma
import pickle
import pickletools
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import LFS_COMMAND, LFS_HINT, LFS_PROBLEM, is_lfs_pointer

TRAIN_ENTRY, TEST_ENTRY = "train_corpus", "test1_corpus"
LABEL_KEY = "emo"
MAX_ENTRY_BYTES = 64 * 1024**2
"""Maximum size of an uncompressed entry in bytes; those of the challenge have a few hundred kilobytes."""

_NUMPY_COMPRESSION = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
"""The compression that NumPy writes; `zipfile` decompresses the others without a limit of memory."""

_ENCRYPTED = 0x1
"""The flag of an encrypted zip member."""

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,  # a compression or encryption that zipfile does not support
    OSError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    zlib.error,
)
"""The errors that zipfile raises for damaged archives and other files."""

_OPCODES_WITH_SIZE = {"PUT", "BINPUT", "LONG_BINPUT", "FRAME"}
"""The opcodes of a pickle with the index of a memo or the length of a frame."""

_HINT = "use a file with plain dictionaries of strings, as the baseline writes it; no code of the file was executed"


def read_label_npz(path: Path, entry: str = TRAIN_ENTRY) -> dict[str, str]:
    """Return the label of each clip name, in file order.

    Args:
        path: The npz file.
        entry: The corpus: ``train_corpus``, ``test1_corpus``...

    Raises:
        MissingInput: If the file does not exist.
        InputError: If it is not an npz file, lacks the entry, or holds other types than dictionaries and strings.
    """
    if not path.is_file():
        raise MissingInput(f"{path} does not exist", "give the path of the baseline's label file")
    try:
        with zipfile.ZipFile(path) as archive:
            content = _read_member(archive, entry, path)
    except _ZIP_ERRORS as error:
        raise _damaged(path, error) from error
    return _checked_labels(_unpickle(content, f"{path}: {entry}"), f"{path}: {entry}")


def entries_of(path: Path) -> list[str]:
    """Return the sorted names of the entries of an npz file.

    Raises:
        InputError: If it is not an npz file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(name.removesuffix(".npy") for name in archive.namelist())
    except _ZIP_ERRORS as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    if is_lfs_pointer(path):
        return InputError(f"{path} {LFS_PROBLEM}", LFS_HINT, command=LFS_COMMAND)
    return InputError(f"{path} is not an npz file, or is damaged ({error})", _HINT)


def _read_member(archive: zipfile.ZipFile, entry: str, path: Path) -> bytes:
    members = {member.filename: member for member in archive.infolist()}
    if f"{entry}.npy" not in members:
        if entry in members:
            raise InputError(f"{path}: entry {entry} is not an array: its name does not end in .npy", _HINT)
        names = sorted(name.removesuffix(".npy") for name in members)
        raise InputError(f"{path} has no entry {entry!r}", f"use one of its entries: {', '.join(names) or 'none'}")
    member = members[f"{entry}.npy"]
    if member.flag_bits & _ENCRYPTED:
        raise InputError(f"{path}: entry {entry} is encrypted", "save it without a password")
    if member.compress_type not in _NUMPY_COMPRESSION:
        raise InputError(f"{path}: entry {entry} is compressed in another way than NumPy does", _HINT)
    if member.file_size > MAX_ENTRY_BYTES:
        raise InputError(f"{path}: entry {entry} unpacks to more than {MAX_ENTRY_BYTES} bytes", _HINT)
    return archive.read(member)


def _unpickle(content: bytes, location: str) -> Any:
    stream = io.BytesIO(content)
    try:
        from numpy.lib import format as npy  # lazy: few corpora have such a file, and importing numpy takes 0.1 s

        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        if shape != () or not dtype.hasobject:
            raise InputError(f"{location} is an array of shape {shape} and type {dtype}, not one dictionary", _HINT)
        _check_sizes(stream)
        array = _SafeUnpickler(stream).load()
    except pickle.UnpicklingError as error:
        raise InputError(f"{location} is refused: {error}", _HINT) from error
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
        raise InputError(f"{location} is damaged ({type(error).__name__}: {error})", _HINT) from error
    if not isinstance(array, _ArrayStub) or not isinstance(array.items, list) or len(array.items) != 1:
        raise InputError(f"{location} is not an array of one dictionary", _HINT)
    return array.items[0]


def _check_sizes(stream: io.BytesIO) -> None:
    """Check that no opcode of a pickle has an index or a length beyond its size, for which memory would be allocated.

    Raises:
        ValueError: If one has, or the pickle is truncated.
    """
    start, size = stream.tell(), len(stream.getbuffer())
    for opcode, value, _ in pickletools.genops(stream):  # checks the length of strings
        if opcode.name in _OPCODES_WITH_SIZE and not 0 <= int(value or 0) <= size:
            raise ValueError(f"opcode {opcode.name} has the value {value}, but the pickle has {size} bytes")
    stream.seek(start)


def _checked_labels(names: Any, location: str) -> dict[str, str]:
    if type(names) is not dict:
        raise InputError(f"{location} holds a {type(names).__name__}, not a dictionary", _HINT)
    labels = {}
    for name, values in names.items():
        all_strings = (
            type(name) is str
            and type(values) is dict
            and all(type(text) is str for item in values.items() for text in item)
        )
        if not all_strings or LABEL_KEY not in values:
            raise InputError(
                f"{location}: {str(name)[:60]!r} has no dictionary of strings with key {LABEL_KEY!r}", _HINT
            )
        labels[name] = values[LABEL_KEY]
    return labels


class _ArrayStub:
    """Replacement of the object array around the dictionary: keeps the state and does nothing else."""

    items: Any = None

    def __setstate__(self, state: Any) -> None:
        self.items = state[4] if isinstance(state, tuple) and len(state) == 5 else None


class _TypeStub:
    """Replacement of ``numpy.dtype`` and ``numpy.ndarray``."""

    def __init__(self, *_arguments: Any) -> None:
        """Ignore the arguments."""

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


class _ReconstructStub:
    """Replacement of the function that creates an array; without attributes, because a pickle could set them."""

    __slots__ = ()

    def __call__(self, *_arguments: Any) -> _ArrayStub:
        return _ArrayStub()


class _SafeUnpickler(pickle.Unpickler):
    """An unpickler that resolves only the stubs."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        reconstruct = _ReconstructStub()
        # A new stub instance per file: one pickle cannot pass state to the next.
        self._stubs: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): _TypeStub,
            ("numpy", "dtype"): _TypeStub,
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._stubs:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return self._stubs[module, name]

    def persistent_load(self, _pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside the file")
