"""Count how often clips are opened, by inotify: it measures all work, also work that a kill destroyed."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections import Counter
from pathlib import Path
from types import TracebackType

_IN_CLOSE_NOWRITE, _IN_OPEN, _IN_Q_OVERFLOW = 0x10, 0x20, 0x4000  # <sys/inotify.h>
_HEADER = struct.Struct("iIII")
_BUFFER_BYTES = 1 << 16


class Openings:
    """Context manager that watches the files of a folder.

    It also watches closings, because the kernel merges consecutive equal events.

    Args:
        folder: The folder; its subfolders are not watched.
    """

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if (
            self._descriptor < 0
            or libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _IN_OPEN | _IN_CLOSE_NOWRITE) < 0
        ):
            raise OSError(ctypes.get_errno(), "inotify", str(folder))

    def __enter__(self) -> Openings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def any(self) -> bool:
        """Return whether a file was opened since the last call of `take`."""
        return bool(select.select([self._descriptor], [], [], 0)[0])

    def take(self) -> Counter[str]:
        """Return how often each file was opened since the last call, by its name without extension."""
        counts: Counter[str] = Counter()
        while True:
            try:
                events = os.read(self._descriptor, _BUFFER_BYTES)
            except BlockingIOError:
                return counts
            start = 0
            while start < len(events):
                _, mask, _, length = _HEADER.unpack_from(events, start)
                start += _HEADER.size + length
                if mask & _IN_Q_OVERFLOW:
                    raise OverflowError("the inotify queue overflowed")
                if mask & _IN_OPEN and length:
                    counts[Path(os.fsdecode(events[start - length : start].rstrip(b"\0"))).stem] += 1
