"""One writer at a time: locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ecmf_pipeline.core.errors import StoreBusy
from ecmf_pipeline.core.progress import say

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems answer that are mounted without locks (some cluster file systems are)."""


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs.

    Args:
        path: The lock file; it is made where it is missing, and stays.
        what: What is written to, for the message.

    Raises:
        StoreBusy: When another process, of this machine or of one that shares the file system, holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            _take(descriptor, path)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
            raise StoreBusy(
                f"{what} is being written to by another run ({holder})",
                "wait until it has ended and run this again: what it computes will not be computed twice",
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
            say(f"{path}: this file system knows no locks; make sure that no other run writes to {what}")
        os.ftruncate(descriptor, 0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        is_still_there = os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        is_still_there = False
    if not is_still_there:
        raise BlockingIOError  # its last holder has removed it meanwhile, and another may hold a new one
