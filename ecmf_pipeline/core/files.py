"""Read text as people save it, write files whole or not at all, hash them once, and lock what one process may write."""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import InputError, MissingInput, StoreBusy

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems answer that are mounted without locks (some cluster file systems are)."""
_TICK = 50_000_000
"""Nanoseconds by which the kernel's clock of files may be behind, generously."""
_COARSE_TICK = 4_000_000_000
"""The same for file systems whose times have no fractions of a second."""
_SHA256 = re.compile("[0-9a-f]{64}")
_ROW = [int, int, int, int, str]
"""Types of what is kept of a file: size, both times, inode and digest."""


def read_text(path: Path) -> str:
    r"""Read UTF-8 text, with or without a byte-order mark, with any line ends (returned as they are).

    Raises:
        InputError: When the bytes are not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start})",
            f"save it as UTF-8 (in a shell: iconv -f ENCODING -t UTF-8 {path.name})",
        ) from error


def read_json(path: Path, *, made_by: str) -> Any:
    """Read a JSON file that the stage ``made_by`` writes.

    Raises:
        MissingInput: When that stage has not run yet.
        InputError: When the file is damaged.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing", f"run `ecmf-pipe {made_by}` (or `dvc repro`) first")
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error})", f"run `ecmf-pipe {made_by}` again") from error


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys, whole or not at all."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> bool:
    """Write a table if it is not there as it is already; return whether the file's bytes changed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return write_atomic(path, text.getvalue(), only_if_changed=True)


def write_atomic(path: Path, content: str | bytes, *, only_if_changed: bool = False) -> bool:
    """Write a file aside and rename it into place, so that no reader ever sees half of it.

    Returns:
        Whether the file was written; with ``only_if_changed``, False when it already held these bytes.
    """
    data = content.encode() if isinstance(content, str) else content
    if only_if_changed and path.is_file() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return True


def flush_folder(folder: Path) -> None:
    """Write a folder's list of names to the disk: without it, a power cut may undo what was renamed into it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(settings: object) -> str:
    """Twelve hex digits that change whenever ``settings`` (plain JSON values) do."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return sha256_text(canonical)[:12]


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
            echo(f"{path}: this file system knows no locks; make sure that no other run writes to {what}")
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
    may_hold = cache.parent.is_dir() and os.access(cache.parent, os.W_OK)
    if _state(path) == before and not is_young(path.stat().st_ctime_ns, started_ns) and may_hold:
        # Read again: another process may have remembered something meanwhile. If two write at once, one is lost.
        kept = {name: row for name, row in _load(cache).items() if Path(name).is_file()}
        with suppress(OSError):  # a full disk must not end a command that only reads: the file is then read again
            write_atomic(cache, json.dumps({**kept, str(path): [*before, digest]}, indent=1) + "\n")
    return digest


def is_young(changed_ns: int, started_ns: int) -> bool:
    """Whether a file with this time of change (ctime) may have been changed later than ``started_ns`` unnoticed."""
    return changed_ns >= started_ns - (_TICK if changed_ns % 1_000_000_000 else _COARSE_TICK)


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _load(cache: Path) -> dict[str, list[int | str]]:
    """Read the remembered digests; a missing or damaged file counts as empty."""
    try:
        found = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    rows = {path: row for path, row in found.items() if isinstance(row, list) and [*map(type, row)] == _ROW}
    return {path: row for path, row in rows.items() if _SHA256.fullmatch(row[-1])}
