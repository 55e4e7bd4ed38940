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
import secrets
import shlex
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import format_bytes, warn
from ecmf_pipeline.core.errors import ChangedSinceIndex, FileUnreachable, InputError, MissingInput, StoreBusy

StrPath = str | os.PathLike[str]
"""A path as a user writes it."""

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
"""Errors of a full disk or an exhausted quota."""
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Errors of files and folders without permission, or on a file system that is mounted read-only."""
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
_DIGEST: Final = "digest"
"""Key of the digest in a JSON file that `write_sealed_json` writes."""
_CACHE_START: Final = b'{"sha256": "%s", '
"""Start of a local cache."""
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
            command=to_utf8_command(path, "ENCODING"),
        ) from error


def to_utf8_command(path: Path, encoding: str) -> str:
    """Return the shell command that converts a text file to UTF-8 in place; it runs in the folder of the project."""
    name = shlex.quote(str(path))
    return f"iconv -f {encoding} -t UTF-8 {name} > utf8.tmp && mv utf8.tmp {name}"


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
        return parse_json(path.read_bytes().decode())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error})", "write it again", command=command) from error


def write_sealed_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON object with the digest of its content under the key ``digest``; see `read_sealed_json`."""
    stored = json.loads(json.dumps(content))  # as it is read: keys are text, tuples are lists
    write_json(path, {**stored, _DIGEST: fingerprint(stored)})


def read_sealed_json(path: Path, *, made_by: str, error: type[InputError] = InputError) -> dict[str, Any]:
    """Read a JSON object that `write_sealed_json` wrote, without the digest.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If the file is damaged or was changed; of the type ``error`` if it is valid JSON.
    """
    content = read_json(path, made_by=made_by)
    digest = content.pop(_DIGEST, None) if isinstance(content, dict) else None
    if digest is None or digest != _content_digest(content):
        raise error(
            f"{path} is damaged: its content differs from the digest in it",
            "write it again",
            command=f"ecmf-pipe {made_by}",
        )
    sealed: dict[str, Any] = content
    return sealed


def _content_digest(content: Mapping[str, object]) -> str | None:
    """Return the digest of JSON values; None if they hold numbers or characters that are not written."""
    try:
        return fingerprint(content)
    except (ValueError, RecursionError):
        return None


_SHA256_DIGITS = 64
_COMPARED = 1 << 20
"""Bytes of a file that are compared at once."""


def with_sha256(content: bytes) -> bytes:
    """Return bytes with their SHA-256 in hex appended; see `without_sha256`."""
    return content + sha256_bytes(content).encode()


def without_sha256(data: bytes) -> bytes:
    """Return the content of `with_sha256`.

    Raises:
        ValueError: If the bytes are damaged.
    """
    content, digest = data[:-_SHA256_DIGITS], data[-_SHA256_DIGITS:]
    if sha256_bytes(content).encode() != digest:
        raise ValueError("the SHA-256 at its end differs")
    return content


def write_local_cache(path: Path, content: Mapping[str, object]) -> None:
    """Write a local cache atomically; see `local_cache_bytes`."""
    write_atomic(path, local_cache_bytes(content))


def read_local_cache(path: Path) -> dict[str, Any]:
    """Read a cache that `write_local_cache` wrote; a missing, damaged or changed one counts as empty."""
    try:
        return parse_local_cache(path.read_bytes())
    except OSError:
        return {}


def local_cache_bytes(content: Mapping[str, object]) -> bytes:
    """Return JSON with the SHA-256 of the rest of its bytes as first value; ``content`` is not empty."""
    rest = json.dumps(content)[1:].encode()
    return _CACHE_START % sha256_bytes(rest).encode() + rest


def parse_local_cache(data: bytes) -> dict[str, Any]:
    """Return the content of `local_cache_bytes`; damaged or changed bytes count as empty."""
    length = len(_CACHE_START % (b"0" * 64))
    if data[:length] != _CACHE_START % sha256_bytes(data[length:]).encode():
        return {}
    content: dict[str, Any] = parse_json(b"{" + data[length:])
    return content


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys, atomically."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> bool:
    """Write a csv file unless it has the same content; return whether its bytes changed."""
    return write_atomic(path, csv_bytes(header, rows), only_if_changed=True)


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return a csv table in UTF-8; StringIO would take four bytes for each character of a large table."""
    data = io.BytesIO()
    text = io.TextIOWrapper(data, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    text.flush()
    return data.getvalue()


def write_atomic(path: Path, content: str | bytes, *, only_if_changed: bool = False) -> bool:
    """Write a temporary file and rename it; readers never see a partial file.

    A new file gets the permissions of the umask; a file that exists keeps its own, unless it is write-protected, as
    files are that DVC links from its cache.

    Returns:
        Whether the file was written; with ``only_if_changed``, False if it already held these bytes.

    Raises:
        OSError: If writing fails; a full disk or a read-only folder is reported with ``path`` as the file name.
    """
    data = content.encode() if isinstance(content, str) else content
    if only_if_changed and _holds(path, data):
        return False
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:  # not tempfile, whose files are private whatever the umask is
            if path.is_file() and (mode := stat.S_IMODE(path.stat().st_mode)) & stat.S_IWUSR:
                os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in DISK_FULL | READ_ONLY:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    return True


def _holds(path: Path, data: bytes) -> bool:
    """Return whether a file holds exactly these bytes."""
    if not path.is_file() or path.stat().st_size != len(data):
        return False
    view = memoryview(data)
    with path.open("rb") as file:
        return all(file.read(_COMPARED) == view[start : start + _COMPARED] for start in range(0, len(data), _COMPARED))


def describe_file_system(path: Path) -> str:
    """Return mount point and free space of the file system that holds a file, which need not exist."""
    mount = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_mount())
    return f"file system {mount}, {format_bytes(free_bytes(path))} free"


def free_bytes(path: Path) -> int:
    """Return the free space of the file system that holds a file, which need not exist."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def hide_folder(folder: Path) -> None:
    """Hide a folder and all that it holds from Git and DVC; it is created if it does not exist."""
    for name in (".gitignore", ".dvcignore"):
        if not (folder / name).is_file():
            write_atomic(folder / name, "*\n")


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


def sha256_bytes(content: bytes) -> str:
    """Return the SHA-256 of bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def sha256_input(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and the bytes of the pictures in a folder, in hex."""
    if not path.is_dir():
        return sha256_file(path)
    digest = hashlib.sha256()
    for picture in picture_files(path):
        digest.update(f"{picture.name}\0{sha256_file(picture)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures in a folder, sorted by name, numbers by value; empty if it cannot be read."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix.lower() in _PICTURES and path.name[0] != "."]
    except OSError:
        return []
    return sorted(paths, key=lambda path: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", path.name)])


def sha256_text(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes, in hex."""
    return sha256_bytes(text.encode())


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
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # minus the umask
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
    state = FileState.of(path)
    row = _load_digests(cache).get(str(path))
    if row is not None and tuple(row[:-1]) == state:
        return str(row[-1])
    started_ns = time.time_ns()
    digest = sha256_file(path)
    is_writable = cache.parent.is_dir() and os.access(cache.parent, os.W_OK)
    if FileState.of(path) == state and not is_too_recent(state.ctime_ns, started_ns) and is_writable:
        # Load again: another process may have written the cache meanwhile. If two write at once, one entry is lost.
        rows = {name: row for name, row in _load_digests(cache).items() if Path(name).is_file()}
        with suppress(OSError):  # on a full disk the file is just read again next time
            write_local_cache(cache, {**rows, str(path): [*state, digest]})
    return digest


class FileState(NamedTuple):
    """The state of a file; each change of the content changes it, except within one tick of the file system's clock.

    Users can set the modification time, but not the ctime.

    Attributes:
        size: The size in bytes.
        mtime_ns: The time of the last change of the content, in nanoseconds.
        ctime_ns: The time of the last change of the content, name, links or rights, in nanoseconds.
        inode: The number of the file; a file that replaces another has another number.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> FileState:
        """Read the state of a file; links are followed. Of a folder: the sums or the latest of its files.

        Raises:
            OSError: If the file is inaccessible.
        """
        status = os.stat(path)  # noqa: PTH116  (a Path for each of 100,000 files takes seconds)
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path) as entries:
                files = [entry.stat() for entry in entries if entry.is_file()]
            return cls(
                sum(file.st_size for file in files),
                max([status.st_mtime_ns, *(file.st_mtime_ns for file in files)]),
                max([status.st_ctime_ns, *(file.st_ctime_ns for file in files)]),
                status.st_ino,
            )
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def is_too_recent(changed_ns: int, started_ns: int) -> bool:
    """Return whether a file with ctime ``changed_ns`` could change after ``started_ns`` without a new ctime."""
    return changed_ns >= started_ns - _clock_lag(changed_ns)


def wait_until_settled(state: FileState) -> bool:
    """Wait until each further change of a file gives it another state: at most one tick of the file system's clock.

    Returns:
        False without waiting if the ctime is in the future: the clock of a file server is ahead.
    """
    lag = _clock_lag(state.ctime_ns)
    remaining = state.ctime_ns + lag - time.time_ns()
    if remaining > lag:
        return False
    if remaining >= 0:
        time.sleep((remaining + 1) / 1e9)
    return True


def _clock_lag(changed_ns: int) -> int:
    return _CLOCK_LAG_NS if changed_ns % 1_000_000_000 else _COARSE_CLOCK_LAG_NS


@contextmanager
def indexed_content(path: Path, digest: str, known: FileState | None, size: int = 0) -> Iterator[None]:
    """Check that a file has its indexed content before and after the block, which reads it.

    The file is hashed only if its state is not the known one, for example on another machine than `index` ran on.

    Args:
        path: The file.
        digest: SHA-256 of the indexed content, in hex.
        known: A settled state in which the file had this content (`wait_until_settled`); None: unknown.
        size: Size of the indexed content in bytes; 0: unknown. A file of another size is not hashed.

    Raises:
        ChangedSinceIndex: If the file has changed. Errors of the block are replaced, since the change may cause them.
        FileUnreachable: If the file cannot be read.
    """
    changed = ChangedSinceIndex("the file has changed since it was indexed", command="ecmf-pipe index")
    try:
        state, is_settled = FileState.of(path), True
        if state != known:
            is_settled = wait_until_settled(state)
            if (size and state.size != size) or sha256_input(path) != digest:
                raise changed
    except OSError as error:
        raise FileUnreachable(f"cannot read the file: {error.strerror}") from error

    def check() -> None:
        with suppress(OSError):
            if FileState.of(path) == state and (is_settled or sha256_input(path) == digest):
                return
        raise changed

    try:
        yield
    except Exception:
        check()
        raise
    check()


def _load_digests(cache: Path) -> dict[str, list[int | str]]:
    """Read the cached digests; a missing or damaged cache counts as empty."""
    rows = {
        path: row
        for path, row in read_local_cache(cache).items()
        if isinstance(row, list) and [*map(type, row)] == _ROW_TYPES
    }
    return {path: row for path, row in rows.items() if _SHA256.fullmatch(row[-1])}
