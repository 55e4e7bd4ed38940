"""One worker or opener process as the main process sees it, and the messages between the two."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any, Generic

from ecmf_pipeline.core.errors import WORKER_NOTE, ClipError, OutOfMemory
from ecmf_pipeline.runner.machine import count_oom_kills, memory_settings, thread_settings
from ecmf_pipeline.runner.shared_arrays import Layout, SharedArrays
from ecmf_pipeline.runner.step import ItemT, Phase, Task

_STDERR = 2
_SECONDS_TO_END = 5.0


class Role(StrEnum):
    """What a process is for."""

    WORKER = "worker"
    OPENER = "opener"


@dataclass(frozen=True, slots=True)
class Start:
    """To a new process: its role and number, and the factory and spools it works with, pickled."""

    role: Role
    number: int
    work: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """From a process: its step or opener is built."""


@dataclass(frozen=True, slots=True)
class At:
    """From a process: it begins a phase of its batch, with the item at a position; see `step.Watch`."""

    phase: Phase
    position: int


@dataclass(frozen=True, slots=True)
class Opened:
    """From an opener: what became of the items of its batch, each by its position; the arrays follow.

    Attributes:
        good: Those that the arrays hold, in their order.
        bad: Those that cannot be opened, and why.
        too_much: Those for which memory ran out, and the error if they were alone.
        layout: Of the arrays; None if no item is good, and no arrays follow.
    """

    good: Sequence[int]
    bad: Sequence[tuple[int, ClipError]]
    too_much: Sequence[tuple[int, OutOfMemory]]
    layout: Layout | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """To a worker: a batch that an opener has opened; its arrays follow."""

    task: Task[Any]
    layout: Layout


@dataclass(frozen=True, slots=True)
class Failed:
    """From a process: an exception that is no clip's fault."""

    error: bytes
    trace: str

    @classmethod
    def by(cls, error: BaseException) -> Failed:
        """Make the message for an error, also for one that cannot be pickled."""
        trace = "".join(traceback.format_exception(error)).rstrip()
        try:
            pickled = pickle.dumps(error)
            travels = isinstance(error, Exception) and type(pickle.loads(pickled)) is type(error)
        except Exception:  # noqa: BLE001 - whatever an exception's own pickling raises
            travels = False
        if not travels:
            pickled = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        return cls(pickled, trace)

    def revive(self) -> Exception:
        """Return the error as it was raised, with the process's traceback as a note."""
        error: Exception = pickle.loads(self.error)
        error.add_note(f"{WORKER_NOTE}\n{self.trace}")
        return error


@dataclass(frozen=True, slots=True)
class Job(Generic[ItemT]):
    """A task for a worker or an opener.

    Attributes:
        task: The task.
        suspect: The role of the process that it may have broken, if it is one piece of one item of a batch that did.
        root: Name of the task that it is a piece of.
        arrays: Its items, if an opener has opened them.
    """

    task: Task[ItemT]
    suspect: Role | None = None
    root: str = ""
    arrays: SharedArrays | None = None


class WorkerProcess(Generic[ItemT]):
    """A running worker or opener, its job and its progress.

    Attributes:
        role: Worker or opener.
        number: Its place among the run's workers or openers; one that replaces another takes over its number.
        connection: Our end of the connection to it.
        ready: Whether its step or opener is built.
        job: Its present job.
        phase: The phase of that job; None before it has begun.
        position: The item that it is opening.
        deadline: When (`time.monotonic`) it counts as hanging.
        jobs_given: How many jobs it was given so far.
        only_suspects: Whether all of them were suspects alone.
        oom_kills: The kernel's count when it was given the last one.
        gone: Whether its end of the connection is closed.
    """

    def __init__(self, role: Role, number: int, threads: int) -> None:
        self.role = role
        self.number = number
        self.ready = False
        self.job: Job[ItemT] | None = None
        self.phase: Phase | None = None
        self.position = 0
        self.deadline = math.inf
        self.jobs_given = 0
        self.only_suspects = True
        self.oom_kills = 0
        self.gone = False
        self.connection, theirs = Pipe()
        search_path = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)  # it must find what is pickled
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ecmf_pipeline.runner.worker", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,  # standard output is for what the command itself prints
                env=os.environ | thread_settings(threads) | memory_settings() | {"PYTHONPATH": search_path},
                pass_fds=(theirs.fileno(),),
                process_group=0,  # a terminal's Ctrl-C is for the main process alone
            )

    def begin(self, work: bytes) -> None:
        """Send the new process its role; ``work`` is the pickled factory and spools."""
        with suppress(OSError):  # it is dead already, as its closed connection will show
            self.connection.send(Start(self.role, self.number, work))

    def give(self, job: Job[ItemT]) -> None:
        """Give it a job, and the ownership of its arrays if there are any."""
        self.job, self.phase = replace(job, arrays=None), None
        self.jobs_given += 1
        self.only_suspects &= job.suspect is not None
        self.oom_kills = count_oom_kills()
        with suppress(OSError):
            if job.arrays is None:
                self.connection.send(job.task)
                return
            with closing(job.arrays):
                self.connection.send(Delivery(job.task, job.arrays.layout))
                job.arrays.send(self.connection)

    def enter(self, phase: Phase, position: int, clip_timeout: float) -> None:
        """Note that it begins a phase of its job, and how long it may take."""
        self.phase, self.position = phase, position
        if phase is Phase.KEEP or self.job is None:
            self.deadline = math.inf  # a slow disk is no clip's fault
            return
        clips = len(self.job.task.items) if phase is Phase.WORK else 1
        self.deadline = time.monotonic() + clips * clip_timeout

    def finish(self) -> None:
        """Note that its job is done."""
        self.job, self.phase, self.deadline = None, None, math.inf

    def messages(self) -> list[tuple[Any, SharedArrays | None]]:
        """Return its messages since the last call, with the arrays that came along; updates `gone`."""
        received: list[tuple[Any, SharedArrays | None]] = []
        ended = self._process.poll() is not None  # asked first: all that it sent before its end is in the pipe by now
        try:
            while self.connection.poll():
                message = self.connection.recv()
                layout = message.layout if isinstance(message, Opened) else None
                received.append((message, SharedArrays.receive(self.connection, layout) if layout else None))
        except (EOFError, OSError):
            ended = True
        self.gone = ended
        return received

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def wait(self) -> int:
        """Wait a few seconds for its end, then kill it; return its exit status, or minus the signal that ended it."""
        self.connection.close()
        try:
            return self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel, on a dead network disk say: left behind
            self._process.wait(_SECONDS_TO_END)
        return self._process.returncode or 0
