"""Read text files, write files atomically, cache digests of files, and lock files against concurrent writers."""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shlex
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import warn
from ecmf_pipeline.core.errors import InputError, MissingInput, StoreBusy

_LOCKS_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Errors of file systems that are mounted without lock support, as some cluster file systems are."""
_CLOCK_LAG_NS = 50_000_000
"""Upper bound in nanoseconds of how far file times may lag behind the system clock."""
_COARSE_CLOCK_LAG_NS = 4_000_000_000
"""The same bound for file systems that store whole seconds."""
_LFS_POINTER = re.compile(rb"version \S*git-lfs\S*\n(?:\S+ [^\n]*\n)*?oid sha256:[0-9a-f]{64}\n")
_MAX_LFS_POINTER_BYTES = 1024
"""Maximum size of a Git LFS pointer in its specification."""
LFS_PROBLEM = "is a Git LFS pointer in place of the file"
LFS_HINT = "fetch the files"
LFS_COMMAND = "git lfs pull"
_PICTURES = {".bmp", ".jpg", ".jpeg", ".png"}
_SHA256 = re.compile("[0-9a-f]{64}")
_ROW_TYPES = [int, int, int, int, str]
"""Types of a cached row: size, mtime, ctime, inode and digest."""


def read_text(path: Path) -> str:
    """Read UTF-8 text, with or without a byte-order mark; line ends are not converted.

    Raises:
        InputError: If the bytes are not UTF-8, or are a Git LFS pointer.
    """
    content = path.read_bytes()
    if _LFS_POINTER.match(content):
        raise InputError(f"{path} {LFS_PROBLEM}", LFS_HINT, command=LFS_COMMAND)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start})",
            "convert it to UTF-8; replace ENCODING by its present encoding, such as GB18030",
            command=f"iconv -f ENCODING -t UTF-8 {shlex.quote(path.name)}",
        ) from error


def is_lfs_pointer(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a Git LFS pointer: text that git stores in place of a large file."""
    try:
        with Path(path).open("rb") as file:
            return _LFS_POINTER.match(file.read(_MAX_LFS_POINTER_BYTES)) is not None
    except OSError:
        return False


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: If it is not valid JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, *, made_by: str) -> Any:
    """Read a JSON file that the stage ``made_by`` writes.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If the file is damaged.
    """
    command = f"ecmf-pipe {made_by}"
    if not path.is_file():
        raise MissingInput(f"{path} does not exist", "run the stage that writes it", command=command)
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error})", "write it again", command=command) from error


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys, atomically."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> bool:
    """Write a csv file unless it has the same content; return whether its bytes changed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return write_atomic(path, text.getvalue(), only_if_changed=True)


def write_atomic(path: Path, content: str | bytes, *, only_if_changed: bool = False) -> bool:
    """Write a temporary file and rename it; readers never see a partial file.

    Returns:
        Whether the file was written; with ``only_if_changed``, False if it already held these bytes.
    """
    data = content.encode() if isinstance(content, str) else content
    if only_if_changed and path.is_file() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return True


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk; otherwise a power failure may undo a rename into it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_pictures(folder: Path) -> str:
    """Return the SHA-256 of the names and the bytes of the pictures in a folder, in hex."""
    digest = hashlib.sha256()
    for path in picture_files(folder):
        digest.update(f"{path.name}\0{sha256_file(path)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures in a folder, sorted by name, numbers by value; empty if it cannot be read."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix.lower() in _PICTURES and path.name[0] != "."]
    except OSError:
        return []
    return sorted(paths, key=lambda path: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", path.name)])


def file_state(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return size and modification time in nanoseconds; of a folder, the total size and the latest time of its files.

    Raises:
        OSError: If the path is inaccessible.
    """
    status = os.stat(path)  # noqa: PTH116  (a Path for each of 100,000 files takes seconds)
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size, status.st_mtime_ns
    with os.scandir(path) as entries:
        files = [entry.stat() for entry in entries if entry.is_file()]
    return sum(file.st_size for file in files), max(status.st_mtime_ns, *(file.st_mtime_ns for file in files), 0)


def sha256_text(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(settings: object) -> str:
    """Return the fingerprint of ``settings`` (plain JSON values): twelve hex digits."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return sha256_text(canonical)[:12]


@contextmanager
def exclusive_lock(path: Path, resource: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs.

    Args:
        path: The lock file. It is created if it does not exist, and is not removed.
        resource: Name of the locked resource, for the message.

    Raises:
        StoreBusy: If another process holds the lock, on this machine or on one that shares the file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            _acquire(descriptor, path)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
            raise StoreBusy(
                f"another run is writing to {resource} ({holder})",
                "run the same command again when the other run has ended: its results are reused",
            ) from error
        except OSError as error:
            if error.errno not in _LOCKS_UNSUPPORTED:
                raise
            warn(f"{path}: the file system does not support locks", f"make sure that no other run writes to {resource}")
        os.ftruncate(descriptor, 0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        is_same_file = os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        is_same_file = False
    if not is_same_file:
        raise BlockingIOError  # the previous holder removed the file, and another process may have locked a new one


def cached_sha256(path: Path, cache: Path = paths.DIGESTS) -> str:
    """Return the SHA-256 of a file's bytes, in hex; read the file only if it is new or has changed.

    The comparison includes ctime, since users can set mtime.

    Args:
        path: The file.
        cache: Cache of digests. It is not written if its folder does not exist or is not writable.
    """
    state = _file_state(path)
    row = _load_digests(cache).get(str(path))
    if row is not None and row[:-1] == state:
        return str(row[-1])
    started_ns = time.time_ns()
    digest = sha256_file(path)
    is_writable = cache.parent.is_dir() and os.access(cache.parent, os.W_OK)
    if _file_state(path) == state and not is_too_recent(path.stat().st_ctime_ns, started_ns) and is_writable:
        # Load again: another process may have written the cache meanwhile. If two write at once, one entry is lost.
        rows = {name: row for name, row in _load_digests(cache).items() if Path(name).is_file()}
        with suppress(OSError):  # on a full disk the file is just read again next time
            write_atomic(cache, json.dumps({**rows, str(path): [*state, digest]}, indent=1) + "\n")
    return digest


def is_too_recent(changed_ns: int, started_ns: int) -> bool:
    """Return whether a file with ctime ``changed_ns`` could change after ``started_ns`` without a new ctime."""
    return changed_ns >= started_ns - (_CLOCK_LAG_NS if changed_ns % 1_000_000_000 else _COARSE_CLOCK_LAG_NS)


def _file_state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _load_digests(cache: Path) -> dict[str, list[int | str]]:
    """Read the cached digests; a missing or damaged cache counts as empty."""
    try:
        content = parse_json(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    rows = {path: row for path, row in content.items() if isinstance(row, list) and [*map(type, row)] == _ROW_TYPES}
    return {path: row for path, row in rows.items() if _SHA256.fullmatch(row[-1])}
