"""Whether anything that `index` reads or writes has changed since it last ran: told without loading what reads it.

`index` runs in every `dvc repro`, and as a rule nothing has changed. So a complete run leaves a stamp: a hash of the
names, sizes and times of all that it read and of what it wrote, and what it had to say. Where the stamp still fits, the
next run repeats that and is done. Nothing here imports more than the standard library.

The stamp says less often that nothing has changed than is true: times of change that the user cannot set (ctime)
count, and what was changed while `index` ran, or a moment before, is not stamped at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ecmf_pipeline import __version__
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.files import sha256_file, write_atomic

STAMP = paths.DATA / ".index-stamp.json"

_FORMAT = 1
_BYTES = ("utf-8", "surrogateescape")
_HUB_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HOME")
_TICK = 50_000_000
"""Nanoseconds by which the kernel's clock of files may be behind, generously."""
_COARSE_TICK = 4_000_000_000
"""The same for file systems whose times have no fractions of a second."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What a run of `index` depends on, beside params.yaml and the package.

    Attributes:
        folders: Of these only what stands directly in them counts.
        trees: Files, or folders with all that is in them, hidden folders apart; links are followed. One that is not
            there is watched too.
        outputs: Files that the run has written.
    """

    folders: tuple[str, ...]
    trees: tuple[str, ...]
    outputs: tuple[str, ...]


class _CannotTell(Exception):
    """Something cannot be looked at."""


def repeat(stamp: Path = STAMP) -> bool:
    """Say what the last run said, where this one would do and say the same.

    Returns:
        Whether that is all there is to do.
    """
    said = _recall(stamp)
    if said is None:
        return False
    sys.stdout.write(said)
    sys.stdout.flush()
    return True


def _recall(stamp: Path) -> str | None:
    try:
        document = json.loads(stamp.read_bytes())
        watched = Watched(*(tuple(map(str, document[kind])) for kind in ("folders", "trees", "outputs")))
        fits = document["format"] == _FORMAT and document["signature"] == _sign(watched, document["said"])
        return str(document["said"]) if fits else None
    except (OSError, ValueError, KeyError, TypeError, _CannotTell):
        return None


def remember(watched: Watched, said: str, *, begun_ns: int, stamp: Path = STAMP) -> bool:
    """Stamp a complete run, unless anything that it read was changed since shortly before it began.

    Args:
        watched: What it depended on, and has written.
        said: What another run would say if nothing changes.
        begun_ns: When it began, before it read anything (`time.time_ns`).
        stamp: Where the stamp stands.

    Returns:
        Whether it was stamped.
    """
    try:
        signature = _sign(watched, said, begun_ns)
    except (OSError, ValueError, _CannotTell):
        stamp.unlink(missing_ok=True)
        return False
    document = {
        "format": _FORMAT,
        "folders": list(watched.folders),
        "trees": list(watched.trees),
        "outputs": list(watched.outputs),
        "said": said,
        "signature": signature,
    }
    write_atomic(stamp, json.dumps(document, ensure_ascii=True, indent=1) + "\n")
    return True


def _sign(watched: Watched, said: str, begun_ns: int | None = None) -> str:
    """A hash of all that counts; with ``begun_ns``, only if none of what was read is as young as that."""
    package = str(Path(__file__).parent)
    found = hashlib.sha256()
    has_decord = find_spec("decord") is not None
    environment = {name: os.environ.get(name) for name in _HUB_VARIABLES}
    whole = (__version__, sys.version, package, has_decord, environment, watched, said)
    found.update(f"{whole}\n".encode(*_BYTES))
    found.update(paths.PARAMS.read_bytes())
    read = [_tree(package), _tree(str(paths.PARAMS)), *map(_folder, watched.folders), *map(_tree, watched.trees)]
    for entries in read:
        for line, changed_ns in entries:
            if begun_ns is not None and changed_ns >= begun_ns - _tick(changed_ns):
                raise _CannotTell
            found.update(line.encode(*_BYTES))
    for path in watched.outputs:  # by what is in them: DVC lays them anew after each run
        found.update(f"{path}\0{sha256_file(Path(path))}\n".encode(*_BYTES))
    return found.hexdigest()


_Line = tuple[str, int]
"""What counts of a file or folder, and when it was last changed in any way, in ns."""


def _tick(changed_ns: int) -> int:
    return _TICK if changed_ns % 1_000_000_000 else _COARSE_TICK


def _folder(path: str) -> Iterator[_Line]:
    """What stands directly in a folder; of folders in it, the names alone."""
    yield _one(path)
    if os.path.isdir(path):  # noqa: PTH112  (a Path for each of 100,000 files takes seconds)
        for entry in _listed(path):
            yield (f"{entry.path}\0folder\n", 0) if entry.is_dir() else _one(entry.path)


def _tree(path: str) -> Iterator[_Line]:
    """A file, or all that is in a folder, each folder once: links may form loops."""
    yield _one(path)
    folders = [path] if os.path.isdir(path) else []  # noqa: PTH112
    visited: set[tuple[int, int]] = set()
    while folders:
        folder = folders.pop()
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        for entry in _listed(folder):
            yield _one(entry.path)
            if entry.is_dir() and not entry.name.startswith("."):
                folders.append(entry.path)


def _listed(folder: str) -> list[os.DirEntry[str]]:
    """The entries of a folder in order, Python's own caches apart."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if entry.name != "__pycache__"), key=lambda entry: entry.name)


def _one(path: str) -> _Line:
    """One path; where it is a link, what it leads to.

    Raises:
        OSError: When it cannot be told what is there.
    """
    try:
        status = os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return f"{path}\0nothing\n", 0
    if stat.S_ISDIR(status.st_mode):
        return (
            f"{path}\0folder\0{status.st_mode}\n",
            status.st_ctime_ns,
        )  # its times change with what is put aside in it
    if not stat.S_ISREG(status.st_mode):
        return f"{path}\0other\n", 0
    identity = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return f"{path}\0{identity}\n", status.st_ctime_ns
