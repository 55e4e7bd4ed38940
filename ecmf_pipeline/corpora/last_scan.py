"""Tell whether a corpus, and what `index` wrote about it, are still as the last complete run of `index` left them.

`index` runs in every `dvc repro`, and mostly nothing has changed. To list 132,000 clips, look each up in the cache and
format the manifest takes several seconds; to compare the names, sizes and times of the files takes less than one.

A change is never overlooked, a run without a change may be taken for one: times that users cannot set (ctime) count,
and a run while which anything was changed, or shortly before, is not remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ecmf_pipeline
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.files import is_young, sha256_file, write_atomic

OUTPUTS = (paths.MANIFEST, paths.CORPUS, paths.FINDINGS, paths.quarantine("index"), paths.INDEX_METRICS)
"""The files that `index` writes."""

_Entry = tuple[str, int]
"""What counts of a file or folder, and its time of change (ctime) in nanoseconds."""


@dataclass(frozen=True, slots=True)
class LastScan:
    """What `index` depends on and writes.

    Attributes:
        settings: All params that `index` reads, as text.
        folders: Folders whose files count; of the folders in them, the names alone.
        trees: Folders that count with all that is in them, hidden folders apart. Links are followed. A folder that does
            not exist counts too: it may exist next time.
        record: Where the last complete run is remembered. It can be deleted at any time.
    """

    settings: str
    folders: Sequence[Path]
    trees: Sequence[Path]
    record: Path = paths.LAST_SCAN

    def summary(self) -> str | None:
        """Return what the last complete run printed, with no file read; None if anything has changed since."""
        try:
            kept = json.loads(self.record.read_bytes())
            summary = kept["summary"]
            is_same = kept["signature"] == self._signature(summary)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # no record, a damaged one, or something in the corpus cannot be looked at
        return str(summary) if is_same else None

    def remember(self, summary: str, *, started_ns: int) -> bool:
        """Remember a complete run, unless anything that it read was changed after it began or shortly before.

        Args:
            summary: What a run that reads no file would print now.
            started_ns: When the run began, before it read anything (`time.time_ns`).

        Returns:
            Whether it is remembered.
        """
        try:
            signature = self._signature(summary, started_ns)
        except OSError:
            signature = None
        if signature is None:
            with suppress(OSError):
                self.record.unlink(missing_ok=True)
            return False
        try:
            write_atomic(self.record, json.dumps({"summary": summary, "signature": signature}, indent=1) + "\n")
        except OSError:  # the scan itself is done; the next run scans again
            return False
        return True

    def _signature(self, summary: object, started_ns: int | None = None) -> str | None:
        """Hash all that counts; None if any of it is as young as ``started_ns``.

        Raises:
            OSError: If something cannot be looked at.
        """
        package = Path(ecmf_pipeline.__file__).parent  # another version may read the same files otherwise
        signature = hashlib.sha256(repr((sys.version, str(package), self.settings, summary)).encode())
        for entries in (_tree(str(package)), *map(_folder, map(str, self.folders)), *map(_tree, map(str, self.trees))):
            lines = []
            for line, changed_ns in entries:
                if started_ns is not None and is_young(changed_ns, started_ns):
                    return None
                lines.append(line)
            signature.update("\n".join(lines).encode("utf-8", "surrogateescape"))
        for path in OUTPUTS:  # by their content: DVC may put them back with other times
            signature.update(f"{path}\0{sha256_file(path)}\n".encode())
        return signature.hexdigest()


def _folder(path: str) -> Iterator[_Entry]:
    """Look at the files directly in a folder; of folders in it, at the names alone."""
    yield _look_at(path)
    if os.path.isdir(path):  # noqa: PTH112  (a Path for each of 100,000 files takes seconds)
        for entry in _listed(path):
            yield (f"{entry.path}\0folder", 0) if entry.is_dir() else _look_at(entry)


def _tree(path: str) -> Iterator[_Entry]:
    """Look at all that is in a folder, at each folder once: links may form loops."""
    yield _look_at(path)
    folders = [path] if os.path.isdir(path) else []  # noqa: PTH112
    visited: set[tuple[int, int]] = set()
    while folders:
        folder = folders.pop()
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        for entry in _listed(folder):
            yield _look_at(entry)
            if entry.is_dir() and not entry.name.startswith("."):
                folders.append(entry.path)


def _listed(folder: str) -> list[os.DirEntry[str]]:
    """List a folder in order, Python's own caches apart."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if entry.name != "__pycache__"), key=lambda entry: entry.name)


def _look_at(entry: os.DirEntry[str] | str) -> _Entry:
    """Look at one path; if it is a link, at what it leads to.

    Raises:
        OSError: If it cannot be told what is there.
    """
    path = os.fspath(entry)
    try:
        status = os.stat(path) if isinstance(entry, str) else entry.stat()  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return f"{path}\0nothing", 0
    if stat.S_ISREG(status.st_mode):
        state = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return f"{path}\0{state}", status.st_ctime_ns
    if stat.S_ISDIR(status.st_mode):  # its times change with files that do not count
        return f"{path}\0folder\0{status.st_mode}", status.st_ctime_ns
    return f"{path}\0other", 0
