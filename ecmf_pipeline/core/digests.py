"""Remember the SHA-256 of files that seldom change, such as model weights, by path, size, times and inode.

Weights take seconds to minutes to read, and every stage needs their digests. The digests are kept in the project's data
folder; the file that holds them can be deleted at any time.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.files import sha256_file, write_atomic

_TICK = 50_000_000
"""Nanoseconds by which the kernel's clock of files may be behind, generously."""
_COARSE_TICK = 4_000_000_000
"""The same for file systems whose times have no fractions of a second."""
_ROW = [int, int, int, int, str]
"""Types of what is kept of a file: size, both times, inode and digest."""


def remembered_sha256(path: Path, cache: Path = paths.DIGESTS) -> str:
    """Return the SHA-256 of a file's bytes, in hex; read the file only if it is new or has changed.

    Users can set a file's time of modification, but not its time of change (ctime), which is compared too.

    Args:
        path: The file.
        cache: Where digests are remembered; nothing is if its folder does not exist or may not be written to.
    """
    known = _load(cache)
    before = _state(path)
    entry = known.get(str(path))
    if entry is not None and entry[:-1] == before:
        return str(entry[-1])
    started_ns = time.time_ns()
    digest = sha256_file(path)
    if _state(path) == before and not is_young(path.stat().st_ctime_ns, started_ns) and _can_hold(cache):
        # Read again: another process may have remembered something meanwhile. If two write at once, one is lost.
        kept = {name: row for name, row in _load(cache).items() if Path(name).is_file()}
        write_atomic(cache, json.dumps({**kept, str(path): [*before, digest]}, indent=1) + "\n")
    return digest


def is_young(changed_ns: int, started_ns: int) -> bool:
    """Whether a file may have been changed after ``started_ns`` without a change of its times.

    Args:
        changed_ns: The file's time of change (ctime).
        started_ns: When reading it started.
    """
    return changed_ns >= started_ns - (_TICK if changed_ns % 1_000_000_000 else _COARSE_TICK)


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _can_hold(cache: Path) -> bool:
    return cache.parent.is_dir() and os.access(cache.parent, os.W_OK)


def _load(cache: Path) -> dict[str, list[int | str]]:
    """Read the remembered digests; a missing or damaged file counts as empty."""
    try:
        found = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {path: row for path, row in found.items() if isinstance(row, list) and [*map(type, row)] == _ROW}
