"""Detect whether a corpus and the outputs of `index` or `segment` are unchanged since its last complete run.

`index` runs in every `dvc repro`, usually without any change. Listing 132,000 clips, looking up each in the cache and
formatting the manifest takes several seconds; comparing names, sizes and times of the files takes less than one.

A change is never missed, while an unchanged corpus may be scanned again: the signature contains the ctime, which users
cannot set, and a run is not remembered if a file changed during it or shortly before.
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
from ecmf_pipeline.core.files import is_too_recent, parse_json, sha256_file, write_atomic
from ecmf_pipeline.core.tables import seal_of

OUTPUTS = (
    paths.MANIFEST,
    paths.CORPUS,
    paths.FINDINGS,
    seal_of(paths.FINDINGS),
    paths.CORPUS_VOTES,
    seal_of(paths.CORPUS_VOTES),
    paths.quarantine("index"),
    paths.INDEX_METRICS,
)
"""The files that `index` writes."""

_State = tuple[str, int]
"""The state of a file or folder as text, and its ctime in nanoseconds."""


@dataclass(frozen=True, slots=True)
class LastScan:
    """A record of the last complete run of `index` or `segment`: a signature of inputs and outputs, and the summary.

    Attributes:
        settings: All params that the command reads, as text.
        folders: Folders scanned flat: their files and the names of their subfolders.
        trees: Folders scanned recursively, without hidden folders. Links are followed. A missing folder is recorded
            as missing.
        record: The file of the record. It can be deleted at any time.
        outputs: The files that the command writes.
    """

    settings: str
    folders: Sequence[Path]
    trees: Sequence[Path]
    record: Path = paths.LAST_SCAN
    outputs: Sequence[Path] = OUTPUTS

    def summary(self) -> str | None:
        """Return the remembered summary, or None if an input or output has changed since."""
        try:
            record = parse_json(self.record.read_bytes())
            summary = record["summary"]
            is_unchanged = record["signature"] == self._signature(summary)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # the record is missing or damaged, or a file of the corpus is inaccessible
        return str(summary) if is_unchanged else None

    def remember(self, summary: str, *, started_ns: int) -> bool:
        """Record a complete run, unless one of its inputs changed during the run or shortly before.

        Args:
            summary: The summary that a run without file reads prints.
            started_ns: The time at which the run started, before its first read (`time.time_ns`).

        Returns:
            Whether the run was recorded.
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
        except OSError:  # the scan itself succeeded; the next run scans again
            return False
        return True

    def _signature(self, summary: object, started_ns: int | None = None) -> str | None:
        """Hash inputs and outputs; return None if an input changed after ``started_ns`` or shortly before.

        Raises:
            OSError: If a path is inaccessible.
        """
        package = Path(ecmf_pipeline.__file__).parent  # another version may read the same files differently
        signature = hashlib.sha256(repr((sys.version, str(package), self.settings, summary)).encode())
        for entries in (
            _tree_states(str(package)),
            *map(_folder_states, map(str, self.folders)),
            *map(_tree_states, map(str, self.trees)),
        ):
            lines = []
            for line, changed_ns in entries:
                if started_ns is not None and is_too_recent(changed_ns, started_ns):
                    return None
                lines.append(line)
            signature.update("\n".join(lines).encode("utf-8", "surrogateescape"))
        for path in self.outputs:  # by content: DVC may restore them with other times
            signature.update(f"{path}\0{sha256_file(path)}\n".encode())
        return signature.hexdigest()


def _folder_states(path: str) -> Iterator[_State]:
    """Yield the states of a folder and its files; of subfolders only the names."""
    yield _state(path)
    if os.path.isdir(path):  # noqa: PTH112  (a Path for each of 100,000 files takes seconds)
        for entry in _entries(path):
            yield (f"{entry.path}\0folder", 0) if entry.is_dir() else _state(entry)


def _tree_states(path: str) -> Iterator[_State]:
    """Yield the states of all files below a folder; each folder is visited once, which ends link loops."""
    yield _state(path)
    folders = [path] if os.path.isdir(path) else []  # noqa: PTH112
    visited: set[tuple[int, int]] = set()
    while folders:
        folder = folders.pop()
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        for entry in _entries(folder):
            yield _state(entry)
            if entry.is_dir() and not entry.name.startswith("."):
                folders.append(entry.path)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """List a folder in order, without ``__pycache__``."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if entry.name != "__pycache__"), key=lambda entry: entry.name)


def _state(entry: os.DirEntry[str] | str) -> _State:
    """Return the state of a path; links are followed.

    Raises:
        OSError: If the path is inaccessible.
    """
    path = os.fspath(entry)
    try:
        status = os.stat(path) if isinstance(entry, str) else entry.stat()  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return f"{path}\0nothing", 0
    if stat.S_ISREG(status.st_mode):
        state = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return f"{path}\0{state}", status.st_ctime_ns
    if stat.S_ISDIR(status.st_mode):  # without times, which also change with ignored files
        return f"{path}\0folder\0{status.st_mode}", status.st_ctime_ns
    return f"{path}\0other", 0
