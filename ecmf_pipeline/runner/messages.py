"""What one process has opened, handed to another without a copy on the way.

A parcel lies in an anonymous file in memory (`memfd_create`): no size of /dev/shm bounds it, and it is gone with the
last process that holds its descriptor, however that ends. The descriptor travels over the line between two processes
(SCM_RIGHTS, unix(7)); large arrays lie in the file as they are (pickle protocol 5), and whoever unpacks it works on
them where they lie.
"""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

from ecmf_pipeline.core.errors import WORKER_NOTE, ClipError, OutOfMemory
from ecmf_pipeline.runner.step import Phase, Task

ARE_THERE = hasattr(os, "memfd_create")
"""Whether this system has such files (Linux has)."""

_ALIGNMENT = 64  # bytes; what vector instructions like
_NO_ROOM = {errno.ENOMEM, errno.ENOSPC}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in a parcel.

    Attributes:
        pickled: Bytes of the pickle at its start.
        buffers: First byte and size of each of the arrays that follow.
    """

    pickled: int
    buffers: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Parcel:
    """A parcel that this process holds; `close` it, or the memory stays taken.

    Attributes:
        descriptor: The file's, in this process.
        layout: What is where.
    """

    descriptor: int
    layout: Layout

    def close(self) -> None:
        """Let go of it; the memory is free when nobody else holds it, or what was unpacked from it."""
        os.close(self.descriptor)

    def send(self, connection: Connection) -> None:
        """Give the other end a hold of it, too; it must call `receive` next.

        Raises:
            OSError: When the other end is gone.
        """
        reduction.send_handle(connection, self.descriptor, None)

    @classmethod
    def receive(cls, connection: Connection, layout: Layout) -> Parcel:
        """Take what the other end sends.

        Raises:
            OSError: When the other end is gone.
            EOFError: Likewise.
        """
        descriptor = reduction.recv_handle(connection)
        os.set_inheritable(descriptor, False)
        return cls(descriptor, layout)


def pack(content: object) -> Parcel:
    """Pickle something into a parcel.

    Raises:
        MemoryError: When there is no room for it.
    """
    if sys.platform != "linux":
        raise NotImplementedError("parcels lie in memory files, which Linux has")
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
        _raise_for_room(error)
        raise
    return Parcel(descriptor, Layout(len(pickled), tuple(places)))


def unpack(parcel: Parcel) -> Any:
    """What was packed; its arrays lie in the parcel's own pages, and may be written to (others do not see it).

    Raises:
        MemoryError: When there is no room for it.
    """
    try:
        mapped = memoryview(mmap.mmap(parcel.descriptor, 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        _raise_for_room(error)
        raise
    arrays = [mapped[start : start + size] for start, size in parcel.layout.buffers]
    return pickle.loads(mapped[: parcel.layout.pickled], buffers=arrays)


def _raise_for_room(error: BaseException) -> None:
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        raise MemoryError(f"no room for an opened batch ({error.strerror})") from error


def _write(file: Any, data: bytes | memoryview) -> int:
    """Write all of it: a system call writes 2 GB at most."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
    return len(data)


class Role(StrEnum):
    """What a process is hired for."""

    WORKER = "worker"
    OPENER = "opener"


@dataclass(frozen=True, slots=True)
class Start:
    """To a new process: who it is, and the factory and keeper it works with, pickled."""

    role: Role
    number: int
    work: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """The process has built its step or opener."""


@dataclass(frozen=True, slots=True)
class At:
    """The process begins a phase of its batch, with the item at a position; see `Watch`."""

    phase: Phase
    position: int


@dataclass(frozen=True, slots=True)
class Opened:
    """From an opener: what became of the items of its batch, each by its position; the parcel follows.

    Attributes:
        good: Those that the parcel holds, in its order.
        bad: Those that cannot be opened, and why.
        too_much: Those for which memory ran out, and what to say of them if they were alone.
        layout: The parcel's; None where no item is good, and no parcel follows.
    """

    good: Sequence[int]
    bad: Sequence[tuple[int, ClipError]]
    too_much: Sequence[tuple[int, OutOfMemory]]
    layout: Layout | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """To a worker: a batch that an opener has opened; its parcel follows."""

    task: Task[Any]
    layout: Layout


@dataclass(frozen=True, slots=True)
class Failed:
    """Something was raised in the process that is no clip's fault."""

    error: bytes
    trace: str

    @classmethod
    def by(cls, error: BaseException) -> Failed:
        """What to send for an error, also for one that cannot be pickled."""
        trace = "".join(traceback.format_exception(error)).rstrip()
        try:
            pickled = pickle.dumps(error)
            travels = isinstance(error, Exception) and type(pickle.loads(pickled)) is type(error)
        except Exception:  # noqa: BLE001 - whatever an exception's own pickling raises
            travels = False
        if not travels:
            pickled = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        return cls(pickled, trace)

    def revive(self) -> Exception:
        """The error as it was raised, with the process's traceback as a note."""
        error: Exception = pickle.loads(self.error)
        error.add_note(f"{WORKER_NOTE}\n{self.trace}")
        return error
