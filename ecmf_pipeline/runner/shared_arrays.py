"""Pass opened batches from one process to another without a copy.

The arrays are in an anonymous memory file (`memfd_create`). Its size is not limited by /dev/shm, and the kernel frees
it with the last process that holds its descriptor, however that process ends. The descriptor is sent over the
connection between two processes (SCM_RIGHTS, unix(7)). Large arrays are written without conversion (pickle protocol 5);
the receiver maps the file and works on them in place.
"""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

ARE_SUPPORTED = hasattr(os, "memfd_create")
"""Whether this system has memory files (Linux only)."""

_ALIGNMENT = 64  # bytes, for vector instructions
_NO_MEMORY = {errno.ENOMEM, errno.ENOSPC}


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions of the objects in the file.

    Attributes:
        pickled: Size of the pickle at the start, in bytes.
        buffers: Offset and size in bytes of each array that follows.
    """

    pickled: int
    buffers: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class SharedArrays:
    """A memory file that this process holds; the memory stays allocated until `close`.

    Attributes:
        descriptor: The file descriptor in this process.
        layout: Positions of the objects in the file.
    """

    descriptor: int
    layout: Layout

    def close(self) -> None:
        """Release the file; its memory is freed when no process holds it and no unpacked array uses it."""
        os.close(self.descriptor)

    def send(self, connection: Connection) -> None:
        """Share the file with the other end, which must call `receive` next.

        Raises:
            OSError: If the other end is closed.
        """
        reduction.send_handle(connection, self.descriptor, None)

    @classmethod
    def receive(cls, connection: Connection, layout: Layout) -> SharedArrays:
        """Receive a file sent by the other end.

        Raises:
            OSError: If the other end is closed.
            EOFError: If the other end is closed.
        """
        descriptor = reduction.recv_handle(connection)
        os.set_inheritable(descriptor, False)
        return cls(descriptor, layout)


def pack(content: object) -> SharedArrays:
    """Pickle an object into a new memory file.

    Raises:
        MemoryError: If memory is too small.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    buffers_layout = []
    with _new_file() as (descriptor, file):
        end = _write(file, pickled)
        for buffer in buffers:
            with buffer.raw() as raw:
                start = file.seek(-(-end // _ALIGNMENT) * _ALIGNMENT)
                buffers_layout.append((start, raw.nbytes))
                end = start + _write(file, raw)
    return SharedArrays(descriptor, Layout(len(pickled), tuple(buffers_layout)))


def copy(content: memoryview, layout: Layout) -> SharedArrays:
    """Return a new memory file with the bytes of another one, which a view holds.

    Raises:
        MemoryError: If memory is too small.
    """
    with _new_file() as (descriptor, file):
        _write(file, content)
    return SharedArrays(descriptor, layout)


def view(arrays: SharedArrays) -> memoryview:
    """Return the bytes of a memory file without a copy; they outlive `SharedArrays.close`."""
    return memoryview(mmap.mmap(arrays.descriptor, 0, access=mmap.ACCESS_COPY))


def unpack(arrays: SharedArrays) -> Any:
    """Return the packed object.

    Its arrays use the pages of the file. They are writable; other processes do not see the changes.

    Raises:
        MemoryError: If memory is too small.
    """
    try:
        mapped = view(arrays)
    except OSError as error:
        _raise_if_no_memory(error)
        raise
    buffers = [mapped[start : start + size] for start, size in arrays.layout.buffers]
    return pickle.loads(mapped[: arrays.layout.pickled], buffers=buffers)


@contextmanager
def _new_file() -> Iterator[tuple[int, Any]]:
    """Yield the descriptor of a new memory file, which stays open unless an error occurs, and the file to write to."""
    if sys.platform != "linux":
        raise NotImplementedError("memory files need Linux")  # callers check ARE_SUPPORTED
    descriptor = os.memfd_create("opened-batch", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", buffering=0, closefd=False) as file:
            yield descriptor, file
    except BaseException as error:
        os.close(descriptor)
        _raise_if_no_memory(error)
        raise


def _raise_if_no_memory(error: BaseException) -> None:
    if isinstance(error, OSError) and error.errno in _NO_MEMORY:
        raise MemoryError(f"no memory for an opened batch ({error.strerror})") from error


def _write(file: Any, data: bytes | memoryview) -> int:
    """Write all of ``data``; one system call writes at most 2 GB."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[file.write(remaining) :]
    return len(data)
