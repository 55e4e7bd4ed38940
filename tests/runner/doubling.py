"""A step that doubles numbers with injectable faults, and spools and writers of JSON files.

It is a module, not part of a test, because workers must be able to unpickle its objects.
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

from ecmf_pipeline.core.errors import ClipError, FileUnreachable, InputError, ModelError, NoFaceFound, UnreadableMedia
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.runner import Engine, Opener, Outcome, Run, RunConfig, RunReport, Step, Target, shared_arrays
from ecmf_pipeline.runner.quarantine import Quarantine

BRANCHES = ("a", "b")


@dataclass(frozen=True)
class Number:
    """An item with optional faults.

    ``open_fault`` and ``work_fault`` are faults (see `inject_fault`) of opening and computing the item. With
    ``fault_branch`` they occur only if the item has that branch, and the item can be split into its branches.
    """

    value: int
    open_fault: str = ""
    work_fault: str = ""
    fault_branch: str = ""
    branches: tuple[str, ...] = BRANCHES
    extra_seconds: float = 0.0

    @property
    def targets(self) -> Sequence[Target]:
        return [Target(str(self.value), branch, f"digest {self.value}") for branch in self.branches]

    def alone(self) -> Sequence[Number]:
        return [replace(self, branches=(branch,)) for branch in self.branches] if self.fault_branch else [self]

    def active_fault(self, fault: str) -> str:
        return fault if not self.fault_branch or self.fault_branch in self.branches else ""


def numbers(*values: int, **faulty: Number) -> list[Number]:
    return [faulty.get(f"n{value}", Number(value)) for value in values]


def inject_fault(fault: str, folder: Path) -> None:
    """Execute a fault; "; " separates several, and the prefix ``once:`` limits it to the first call of all processes.

    The files of ``once:`` and ``await`` are in ``folder``.
    """
    if fault.startswith("once:"):
        marker = folder / fault.replace(":", "-")
        if marker.exists():
            return
        marker.touch()
        fault = fault.removeprefix("once:")
    fault, _, rest = fault.partition("; ")
    if rest:
        inject_fault(fault, folder)
        inject_fault(rest, folder)
        return
    match fault.split():
        case []:
            return
        case ["signal", name]:
            os.kill(os.getpid(), signal.Signals[name])
        case ["exit", status]:
            os._exit(int(status))
        case ["sleep", seconds]:
            time.sleep(float(seconds))
        case ["await", name]:
            while not (folder / name).exists():
                time.sleep(0.01)
        case ["raise", "UnreadableMedia"]:
            raise UnreadableMedia("negative")
        case ["raise", "FileUnreachable"]:
            raise FileUnreachable("the disk is offline")
        case ["raise", "MemoryError"]:
            raise MemoryError("8 TB")
        case ["allocate", "all"]:
            allocated = []
            while True:
                allocated.append(b"x" * 2**20)
        case ["raise", "KeyError"]:
            raise KeyError("a bug")
        case ["raise", "UnpicklableError"]:
            raise UnpicklableError("one", "two")
        case ["raise", "UnpicklableClipError"]:
            raise UnpicklableClipError("one", "two")
        case ["raise", "Panic"]:
            raise Panic("a library in Rust panics with a BaseException")
        case ["raise", "full", "disk"]:
            raise OSError(errno.ENOSPC, "No space left on device", "temporary file")
        case ["break", "device"]:
            _broken_devices.add(0)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        case ["open", "unpicklable"]:
            return
        case ["raise", "ModelError"]:
            raise ModelError("no detector", "fetch it")
        case ["raise", "InputError"]:
            raise InputError("wrong input", "fix the input")
        case _:
            raise AssertionError(f"unknown fault {fault!r}")


class UnpicklableError(Exception):
    """An error that cannot be pickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


class UnpicklableClipError(ClipError):
    """A clip error that cannot be pickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


class Panic(BaseException):
    """An exception that is not an `Exception`."""


_broken_devices: set[int] = set()
"""Not empty if the device of this process failed: all later calls fail too."""


@dataclass
class DoublingStep(Step[Number, int, "tuple[str, int]"]):
    """Doubles numbers; multiples of seven have no result in branch `b`.

    It appends a line to the files ``opened`` and ``worked`` for each call.
    """

    folder: Path
    worker: int

    def open(self, item):
        return open_number(item, self.folder, self.worker)

    def work(self, batch):
        n_opened = len(read_lines(self.folder / "opened"))
        with (self.folder / "worked").open("a") as log:
            log.write(f"{len(batch)} {n_opened} {count_shared_arrays()} {os.getpid()}\n")
        if len(batch) > 1 and any(item.work_fault == "out of memory unless alone" for item, _ in batch):
            raise MemoryError
        if any(item.work_fault == "return nothing" for item, _ in batch):
            return []
        if _broken_devices:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        for item, _ in batch:
            if item.work_fault not in {"out of memory unless alone", "return unserialisable"}:
                inject_fault(item.active_fault(item.work_fault), self.folder)
        return [
            Outcome(target, _result(target, item, 2 * int(bytes(opened))))
            for item, opened in batch
            for target in item.targets
        ]

    def close(self):
        (self.folder / f"closed {self.worker}").touch()


@dataclass
class NumberOpener(Opener[Number, "bytes | PickleBuffer"]):
    """Opens items like `DoublingStep`, in a separate process."""

    folder: Path
    number: int

    def open(self, item):
        opened = open_number(item, self.folder, 100 + self.number)
        return PickleBuffer(opened) if item.active_fault(item.open_fault) != "open unpicklable" else lambda: opened

    def close(self):
        (self.folder / f"closed {100 + self.number}").touch()


def open_number(item: Number, folder: Path, worker: int) -> bytes:
    """Return the digits of the number, after logging the call."""
    with (folder / "opened").open("a") as log:
        log.write(f"{item.value} {os.getpid()} {worker}\n")
    inject_fault(item.active_fault(item.open_fault), folder)
    return str(item.value).encode()


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def count_shared_arrays(process: int | str = "self") -> int:
    """Count the descriptors of a process that hold shared arrays, including those of mapped files."""
    targets = [str(entry.readlink()) for entry in Path(f"/proc/{process}/fd").iterdir() if entry.is_symlink()]
    return sum(target.startswith("/memfd:opened-batch") for target in targets)


_write = shared_arrays._write


def _write_one_item(file: Any, data: bytes | memoryview) -> int:
    """Simulate memory for only one opened item."""
    if file.tell() > 64 and not isinstance(data, bytes):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")
    return _write(file, data)


def _result(target: Target, item: Number, doubled: int) -> tuple[str, Any] | NoFaceFound:
    if item.work_fault == "return unserialisable" and target.branch == "a":
        return str(item.value), object()
    return NoFaceFound("seven") if target.branch == "b" and item.value % 7 == 0 else (str(item.value), doubled)


@dataclass(frozen=True)
class Factory:
    folder: Path
    start_fault: str = ""
    opener_start_fault: str = ""

    def __call__(self, worker: int) -> DoublingStep:
        if self.start_fault == "model error":
            raise ModelError("no weights", "fetch them")
        inject_fault(self.start_fault, self.folder)
        return DoublingStep(self.folder, worker)

    def opener(self, number: int) -> NumberOpener:
        if self.opener_start_fault == "memory for one item":
            shared_arrays._write = _write_one_item  # affects only the opener's process
        else:
            inject_fault(self.opener_start_fault, self.folder)
        return NumberOpener(self.folder, number)


@dataclass(frozen=True)
class FileSpool:
    """The spool of a branch; batches are JSON files."""

    folder: Path
    branch: str
    disk_full_at: str = ""
    keep_fault: str = ""

    def keep(self, task: str, rows: Sequence[tuple[str, int]]) -> None:
        inject_fault(self.keep_fault, self.folder)
        path = self.path(task)
        if task == self.disk_full_at:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_atomic(path, self.pack(rows))

    def pack(self, rows: Sequence[tuple[str, int]]) -> bytes:
        return json.dumps(rows).encode()

    def path(self, task: str) -> Path:
        return self.folder / "kept" / self.branch / task


@dataclass(frozen=True)
class FileWriter:
    """The writer of a branch; parts are JSON files."""

    spool: FileSpool
    seal_fault: str = ""
    unsealable: tuple[str, ...] = ()

    def seal(self, number: int, tasks: Sequence[str], clip_ids: Sequence[str]) -> int:
        folder, branch = self.spool.folder, self.spool.branch
        if self.seal_fault:
            (folder / "sealing").touch()
        inject_fault(self.seal_fault, folder)
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
class BranchFiles:
    """The spools and writers of all branches in a folder, and the results that they wrote."""

    folder: Path
    disk_full_at: str = ""
    keep_fault: str = ""
    seal_fault: str = ""
    unsealable: tuple[str, ...] = ()

    @property
    def spools(self) -> dict[str, FileSpool]:
        return {branch: FileSpool(self.folder, branch, self.disk_full_at, self.keep_fault) for branch in BRANCHES}

    @property
    def writers(self) -> dict[str, FileWriter]:
        return {branch: FileWriter(spool, self.seal_fault, self.unsealable) for branch, spool in self.spools.items()}

    def parts(self, branch: str) -> list[list[list[object]]]:
        return [json.loads(path.read_text()) for path in sorted((self.folder / "parts" / branch).glob("*"))]

    def sealed(self, branch: str) -> list[int]:
        return [int(clip_id) for part in self.parts(branch) for clip_id, _ in part]


@dataclass
class RunHarness:
    """The folder, files and settings of a run with `DoublingStep`."""

    folder: Path
    start_fault: str = ""
    disk_full_at: str = ""
    keep_fault: str = ""
    seal_fault: str = ""
    unsealable: tuple[str, ...] = ()
    openers: int = 0
    opener_start_fault: str = ""

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.results = BranchFiles(self.folder, self.disk_full_at, self.keep_fault, self.seal_fault, self.unsealable)
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
        factory = Factory(self.folder, self.start_fault, self.opener_start_fault)
        return Run(factory, self.results.writers, self.tables, config, RunReport(), engine)(items, "test")

    def reasons(self, branch: str) -> dict[str, str]:
        """Return the reason of each clip in the quarantine table on disk."""
        table = Quarantine(self.tables[branch].path, stage="extract", modality=branch)
        return {entry.clip_id: entry.reason for entry in table}

    def messages(self) -> dict[str, str]:
        return {entry.clip_id: entry.message for entry in self.tables["a"]}

    def opened(self) -> list[tuple[int, int, int]]:
        """Return value, process id and worker number of each opened item; openers count from 100."""
        return [tuple(map(int, line.split())) for line in read_lines(self.folder / "opened")]  # type: ignore[misc]

    def worker_processes(self) -> set[int]:
        """Return the ids of the processes that computed a batch."""
        return {int(line.split()[-1]) for line in read_lines(self.folder / "worked")}


def main(folder: str, workers: str, openers: str, seal_fault: str, late_fault: str) -> None:
    """Run 40 slow items, for tests that send signals to the whole run.

    ``late_fault`` is the open fault of the last 28 items.
    """
    items = [Number(value, open_fault="sleep 0.1" if value <= 12 else late_fault) for value in range(1, 41)]
    RunHarness(Path(folder), seal_fault=seal_fault, openers=int(openers)).run(items, workers=int(workers), part_size=12)
