"""Hand opened batches from one process to another without a copy on the way.

The arrays lie in an anonymous file in memory (`memfd_create`): its size is not bounded by /dev/shm, and it is freed
with the last process that holds its descriptor, however that process ends. The descriptor travels over the connection
between two processes (SCM_RIGHTS, unix(7)). Large arrays are written as they are (pickle protocol 5), and the receiver
maps the file and works on them in place.
"""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import sys
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

ARE_SUPPORTED = hasattr(os, "memfd_create")
"""Whether this system has files in memory (Linux has)."""

_ALIGNMENT = 64  # bytes; what vector instructions like
_NO_ROOM = {errno.ENOMEM, errno.ENOSPC}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each object lies in the file.

    Attributes:
        pickled: Bytes of the pickle at the start.
        buffers: First byte and size of each of the arrays that follow.
    """

    pickled: int
    buffers: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class SharedArrays:
    """A file in memory that this process holds; `close` it, or the memory stays taken.

    Attributes:
        descriptor: Of the file, in this process.
        layout: Where each object lies in it.
    """

    descriptor: int
    layout: Layout

    def close(self) -> None:
        """Release it; the memory is free when no other process holds it, nor anything unpacked from it."""
        os.close(self.descriptor)

    def send(self, connection: Connection) -> None:
        """Let the other end hold it, too; the other end must call `receive` next.

        Raises:
            OSError: When the other end is gone.
        """
        reduction.send_handle(connection, self.descriptor, None)

    @classmethod
    def receive(cls, connection: Connection, layout: Layout) -> SharedArrays:
        """Take what the other end sends.

        Raises:
            OSError: When the other end is gone.
            EOFError: Likewise.
        """
        descriptor = reduction.recv_handle(connection)
        os.set_inheritable(descriptor, False)
        return cls(descriptor, layout)


def pack(content: object) -> SharedArrays:
    """Pickle an object into a new file in memory.

    Raises:
        MemoryError: When there is no room for it.
    """
    if sys.platform != "linux":
        raise NotImplementedError("files in memory need Linux")
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    descriptor = os.memfd_create("opened-batch", os.MFD_CLOEXEC)
    places = []
    try:
        with os.fdopen(descriptor, "wb", buffering=0, closefd=False) as file:
            end = _write(file, pickled)
            for buffer in buffers:
                with buffer.raw() as raw:
                    start = file.seek(-(-end // _ALIGNMENT) * _ALIGNMENT)
                    places.append((start, raw.nbytes))
                    end = start + _write(file, raw)
    except BaseException as error:
        os.close(descriptor)
        _raise_if_no_room(error)
        raise
    return SharedArrays(descriptor, Layout(len(pickled), tuple(places)))


def unpack(arrays: SharedArrays) -> Any:
    """Return what was packed. Its arrays lie in the file's own pages and are writable (other processes do not see it).

    Raises:
        MemoryError: When there is no room for it.
    """
    try:
        mapped = memoryview(mmap.mmap(arrays.descriptor, 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        _raise_if_no_room(error)
        raise
    buffers = [mapped[start : start + size] for start, size in arrays.layout.buffers]
    return pickle.loads(mapped[: arrays.layout.pickled], buffers=buffers)


def _raise_if_no_room(error: BaseException) -> None:
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        raise MemoryError(f"no room for an opened batch ({error.strerror})") from error


def _write(file: Any, data: bytes | memoryview) -> int:
    """Write all of it: a system call writes 2 GB at most."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
    return len(data)
