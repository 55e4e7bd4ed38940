"""A step that doubles numbers, with items that break it; spools and writers of json files.

Importable by name, since workers must be able to unpickle what is made of it.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

from ecmf_pipeline.core.errors import FileUnreachable, InputError, ModelError, NoFaceFound, UnreadableMedia
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.runner import Engine, Opener, Outcome, Run, RunConfig, RunReport, Step, Target, shared_arrays
from ecmf_pipeline.runner.quarantine import Quarantine

BRANCHES = ("a", "b")


@dataclass(frozen=True)
class Number:
    """An item.

    ``opening`` and ``working`` name what happens then (see `misbehave`): whatever branches are asked for or, with
    ``at``, where that branch is; its branches are pieces of their own then.
    """

    value: int
    opening: str = ""
    working: str = ""
    at: str = ""
    branches: tuple[str, ...] = BRANCHES

    @property
    def targets(self) -> Sequence[Target]:
        return [Target(str(self.value), branch, f"digest {self.value}") for branch in self.branches]

    def alone(self) -> Sequence[Number]:
        return [replace(self, branches=(branch,)) for branch in self.branches] if self.at else [self]

    def does(self, what: str) -> str:
        return what if not self.at or self.at in self.branches else ""


def numbers(*values: int, **odd: Number) -> list[Number]:
    return [odd.get(f"n{value}", Number(value)) for value in values]


def misbehave(how: str, scratch: Path) -> None:
    """Do what ``how`` says, one thing after the other; with `once:` first, only the first time in all processes."""
    if how.startswith("once:"):
        mark = scratch / how.replace(":", "-")
        if mark.exists():
            return
        mark.touch()
        how = how.removeprefix("once:")
    how, _, then = how.partition("; ")
    if then:
        misbehave(how, scratch)
        misbehave(then, scratch)
        return
    match how.split():
        case []:
            return
        case ["signal", name]:
            os.kill(os.getpid(), signal.Signals[name])
        case ["exit", status]:
            os._exit(int(status))
        case ["sleep", seconds]:
            time.sleep(float(seconds))
        case ["await", name]:
            while not (scratch / name).exists():
                time.sleep(0.01)
        case ["raise", "UnreadableMedia"]:
            raise UnreadableMedia("negative")
        case ["raise", "FileUnreachable"]:
            raise FileUnreachable("the disk is away")
        case ["raise", "MemoryError"]:
            raise MemoryError("8 TB")
        case ["eat", _]:
            eaten = []
            while True:
                eaten.append(b"x" * 2**20)
        case ["raise", "KeyError"]:
            raise KeyError("a bug")
        case ["raise", "Stubborn"]:
            raise Stubborn("one", "two")
        case ["raise", "ModelError"]:
            raise ModelError("no detector", "fetch it")
        case ["raise", "InputError"]:
            raise InputError("what", "how to mend it")
        case _:
            raise AssertionError(how)


class Stubborn(Exception):
    """Does not survive pickling."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


@dataclass
class Doubling(Step[Number, int, "tuple[str, int]"]):
    """Doubles; multiples of seven have no result in branch `b`. Writes a line to the diary for all it opens."""

    scratch: Path
    worker: int

    def open(self, item):
        return open_number(item, self.scratch, self.worker)

    def work(self, batch):
        with (self.scratch / "worked").open("a") as worked:
            worked.write(f"{len(batch)} {len(read_lines(self.scratch / 'diary'))} {count_shared()} {os.getpid()}\n")
        if len(batch) > 1 and any(item.working == "greedy" for item, _ in batch):
            raise MemoryError
        for item, _ in batch:
            misbehave("" if item.working in ("greedy", "silent") else item.does(item.working), self.scratch)
        if any(item.working == "silent" for item, _ in batch):
            return []
        return [
            Outcome(target, _result(target, item, 2 * int(bytes(opened))))
            for item, opened in batch
            for target in item.targets
        ]

    def close(self):
        (self.scratch / f"closed {self.worker}").touch()


@dataclass
class Reading(Opener[Number, "bytes | PickleBuffer"]):
    """Opens as `Doubling` does, in a process of its own;"""

    scratch: Path
    number: int

    def open(self, item):
        return PickleBuffer(open_number(item, self.scratch, 100 + self.number))

    def close(self):
        (self.scratch / f"closed {100 + self.number}").touch()


def open_number(item: Number, scratch: Path, who: int) -> bytes:
    """The number in figures. Writes a line to the diary."""
    with (scratch / "diary").open("a") as diary:
        diary.write(f"{item.value} {os.getpid()} {who}\n")
    misbehave(item.does(item.opening), scratch)
    return str(item.value).encode()


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def count_shared(process: int | str = "self") -> int:
    """Descriptors of a process that hold shared arrays; those of mapped files among them."""
    held = [str(entry.readlink()) for entry in Path(f"/proc/{process}/fd").iterdir() if entry.is_symlink()]
    return sum(name.startswith("/memfd:opened-batch") for name in held)


_write = shared_arrays._write


def _refuse_several(file: Any, data: bytes | memoryview) -> int:
    """Memory that holds one opened item and no more."""
    if file.tell() > 64 and not isinstance(data, bytes):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")
    return _write(file, data)


def _result(target: Target, item: Number, doubled: int) -> tuple[str, int] | NoFaceFound:
    return NoFaceFound("seven") if target.branch == "b" and item.value % 7 == 0 else (str(item.value), doubled)


@dataclass(frozen=True)
class Factory:
    scratch: Path
    starting: str = ""
    opener_starting: str = ""

    def __call__(self, worker: int) -> Doubling:
        if self.starting == "model error":
            raise ModelError("no weights", "fetch them")
        misbehave(self.starting, self.scratch)
        return Doubling(self.scratch, worker)

    def opener(self, number: int) -> Reading:
        if self.opener_starting == "no room for several":
            shared_arrays._write = _refuse_several  # this process is the opener's own
        else:
            misbehave(self.opener_starting, self.scratch)
        return Reading(self.scratch, number)


@dataclass(frozen=True)
class FileSpool:
    """The spool of a branch: batches are json files."""

    folder: Path
    branch: str
    full_at: str = ""
    keeping: str = ""

    def keep(self, task: str, rows: Sequence[tuple[str, int]]) -> None:
        misbehave(self.keeping, self.folder)
        path = self.path(task)
        if task == self.full_at:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_atomic(path, json.dumps(rows))

    def path(self, task: str) -> Path:
        return self.folder / "kept" / self.branch / task


@dataclass(frozen=True)
class FileWriter:
    """The writer of a branch: parts are json files."""

    spool: FileSpool
    sealing: str = ""
    unsealable: tuple[str, ...] = ()

    def seal(self, number: int, tasks: Sequence[str], clip_ids: Sequence[str]) -> int:
        folder, branch = self.spool.folder, self.spool.branch
        if self.sealing:
            (folder / "sealing").touch()
        misbehave(self.sealing, folder)
        if f"{branch}{number}" in self.unsealable:
            raise OSError(errno.ENOSPC, "No space left on device", f"{branch}{number}")
        rows = {}
        for task in tasks:
            path = self.spool.path(task)
            rows |= dict(json.loads(path.read_text()))
            path.unlink()
        ordered = [[clip_id, rows[clip_id]] for clip_id in clip_ids if clip_id in rows]
        write_atomic(folder / "parts" / branch / f"{number:03d}.json", json.dumps(ordered))
        return len(ordered)


@dataclass(frozen=True)
class Drawer:
    """The spools and writers of all branches in a folder, and what they have written."""

    folder: Path
    full_at: str = ""
    keeping: str = ""
    sealing: str = ""
    unsealable: tuple[str, ...] = ()

    @property
    def spools(self) -> dict[str, FileSpool]:
        return {branch: FileSpool(self.folder, branch, self.full_at, self.keeping) for branch in BRANCHES}

    @property
    def writers(self) -> dict[str, FileWriter]:
        return {branch: FileWriter(spool, self.sealing, self.unsealable) for branch, spool in self.spools.items()}

    def parts(self, branch: str) -> list[list[list[object]]]:
        return [json.loads(path.read_text()) for path in sorted((self.folder / "parts" / branch).glob("*"))]

    def sealed(self, branch: str) -> list[int]:
        return [int(clip_id) for part in self.parts(branch) for clip_id, _ in part]


@dataclass
class Bench:
    """All that a run needs, in one folder."""

    folder: Path
    starting: str = ""
    full_at: str = ""
    keeping: str = ""
    sealing: str = ""
    unsealable: tuple[str, ...] = ()
    openers: int = 0
    opener_starting: str = ""

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.drawer = Drawer(self.folder, self.full_at, self.keeping, self.sealing, self.unsealable)
        self.tables = {
            name: Quarantine(self.folder / f"{name}.csv", stage="extract", modality=name) for name in BRANCHES
        }

    def run(
        self,
        items: Sequence[Number],
        *,
        workers: int,
        share: float = 1.0,
        batch_size: int = 3,
        part_size: int = 6,
        clip_timeout: float = 30.0,
        engine: Engine | None = None,
    ) -> RunReport:
        config = RunConfig(batch_size, part_size, share, workers, clip_timeout, self.openers)
        factory = Factory(self.folder, self.starting, self.opener_starting)
        return Run(factory, self.drawer.writers, self.tables, config, RunReport(), engine)(items, "test")

    def reasons(self, branch: str) -> dict[str, str]:
        """The table as it stands on the disk: reason by clip."""
        table = Quarantine(self.tables[branch].path, stage="extract", modality=branch)
        return {entry.clip_id: entry.reason for entry in table}

    def messages(self) -> dict[str, str]:
        return {entry.clip_id: entry.message for entry in self.tables["a"]}

    def diary(self) -> list[tuple[int, int, int]]:
        """Value, process and worker of everything opened."""
        return [tuple(map(int, line.split())) for line in read_lines(self.folder / "diary")]  # type: ignore[misc]

    def working(self) -> set[int]:
        """The processes that have worked on something."""
        return {int(line.split()[-1]) for line in read_lines(self.folder / "worked")}


def main(folder: str, workers: str, openers: str, sealing: str, later: str) -> None:
    """A run of 40 slow items, for tests that send signals to a whole run; ``later``: what opening the last 28 does."""
    items = [Number(value, opening="sleep 0.1" if value <= 12 else later) for value in range(1, 41)]
    Bench(Path(folder), sealing=sealing, openers=int(openers)).run(items, workers=int(workers), part_size=12)
