"""A worker or opener process as seen by the main process, and the messages between the two."""

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

from ecmf_pipeline.core.errors import WORKER_NOTE, ClipError
from ecmf_pipeline.runner.machine import count_oom_kills, memory_environment, thread_environment
from ecmf_pipeline.runner.shared_arrays import Layout, SharedArrays
from ecmf_pipeline.runner.step import ItemT, Phase, Task, extra_seconds

_STDERR = 2
_EXIT_TIMEOUT = 5.0


class Role(StrEnum):
    """The role of a process."""

    WORKER = "worker"
    OPENER = "opener"


@dataclass(frozen=True, slots=True)
class Start:
    """Message to a new process: its role, its number, and the pickled factory and spools."""

    role: Role
    number: int
    work: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """Message from a process: its step or opener is built."""


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """Message from a process: it starts a phase of its batch, at the item of a position; see `step.Watch`."""

    phase: Phase
    position: int


@dataclass(frozen=True, slots=True)
class Opened:
    """Message from an opener: the results of its batch by item position; the shared arrays follow.

    Attributes:
        good: Items that the arrays hold, in this order.
        bad: Items that failed, each with the reason.
        retries: Items to try again in pieces, each with the error to report if the item was alone and is indivisible.
        layout: Layout of the arrays; None if no item is good, and no arrays follow.
    """

    good: Sequence[int]
    bad: Sequence[tuple[int, ClipError]]
    retries: Sequence[tuple[int, ClipError]]
    layout: Layout | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """Message to a worker: a batch that an opener has opened; its arrays follow."""

    task: Task[Any]
    layout: Layout


@dataclass(frozen=True, slots=True)
class ProcessFailed:
    """Message from a process: an exception that no clip caused."""

    error: bytes
    trace: str

    @classmethod
    def from_error(cls, error: BaseException) -> ProcessFailed:
        """Make the message for an error, including errors that cannot be pickled."""
        trace = "".join(traceback.format_exception(error)).rstrip()
        try:
            pickled = pickle.dumps(error)
            is_picklable = isinstance(error, Exception) and type(pickle.loads(pickled)) is type(error)
        except Exception:  # noqa: BLE001 - pickling can raise anything
            is_picklable = False
        if not is_picklable:
            pickled = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        return cls(pickled, trace)

    def restore(self) -> Exception:
        """Return the original error, with the traceback of the process as a note."""
        error: Exception = pickle.loads(self.error)
        error.add_note(f"{WORKER_NOTE}\n{self.trace}")
        return error


@dataclass(frozen=True, slots=True)
class Job(Generic[ItemT]):
    """A task for a worker or an opener.

    Attributes:
        task: The task.
        suspect: Role of the process that the job may have broken; None if it is not a suspect. A suspect is one piece
            of one item.
        root: Name of the task that the job was split from.
        arrays: The opened items, if an opener has opened them.
    """

    task: Task[ItemT]
    suspect: Role | None = None
    root: str = ""
    arrays: SharedArrays | None = None


class WorkerProcess(Generic[ItemT]):
    """A running worker or opener, its job and its progress.

    Attributes:
        role: Worker or opener.
        number: Index among the workers or openers of the run; a replacement takes over the number.
        connection: The main process's end of the connection.
        ready: Whether its step or opener is built.
        job: Its current job.
        phase: The phase of that job; None before the job starts.
        position: The item that it is opening.
        deadline: Time (`time.monotonic`) after which it counts as hanging.
        jobs_given: Number of jobs given to it so far.
        had_only_suspects: Whether all of them were suspects.
        oom_kills: The kernel's count of out-of-memory kills when it got its last job.
        exited: Whether its end of the connection is closed.
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
        self.had_only_suspects = True
        self.oom_kills = 0
        self.exited = False
        self.connection, child_end = Pipe()
        search_path = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)  # to unpickle the factory
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ecmf_pipeline.runner.worker", str(child_end.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,  # standard output is reserved for the results of the command
                env=os.environ | thread_environment(threads) | memory_environment() | {"PYTHONPATH": search_path},
                pass_fds=(child_end.fileno(),),
                process_group=0,  # Ctrl-C in a terminal must reach only the main process
            )

    def begin(self, work: bytes) -> None:
        """Send the new process its role; ``work`` is the pickled factory and spools."""
        with suppress(OSError):  # it has exited; `messages` detects this
            self.connection.send(Start(self.role, self.number, work))

    def give(self, job: Job[ItemT]) -> None:
        """Send a job, with ownership of its arrays if it has any."""
        self.job, self.phase = replace(job, arrays=None), None
        self.jobs_given += 1
        self.had_only_suspects &= job.suspect is not None
        self.oom_kills = count_oom_kills()
        with suppress(OSError):
            if job.arrays is None:
                self.connection.send(job.task)
                return
            with closing(job.arrays):
                self.connection.send(Delivery(job.task, job.arrays.layout))
                job.arrays.send(self.connection)

    def start_phase(self, phase: Phase, position: int, clip_timeout: float) -> None:
        """Record the start of a phase of the job, and its deadline."""
        self.phase, self.position = phase, position
        if phase is Phase.KEEP or self.job is None:
            self.deadline = math.inf  # a slow disk is not the fault of a clip
            return
        items = self.job.task.items if phase is Phase.WORK else self.job.task.items[position : position + 1]
        self.deadline = time.monotonic() + sum(clip_timeout + extra_seconds(item) for item in items)

    def finish(self) -> None:
        """Record the end of the job."""
        self.job, self.phase, self.deadline = None, None, math.inf

    def messages(self) -> list[tuple[Any, SharedArrays | None]]:
        """Return the messages since the last call, each with its arrays if any; updates `exited`."""
        received: list[tuple[Any, SharedArrays | None]] = []
        ended = self._process.poll() is not None  # checked first: its last messages are then already in the pipe
        try:
            while self.connection.poll():
                message = self.connection.recv()
                layout = message.layout if isinstance(message, Opened) else None
                received.append((message, SharedArrays.receive(self.connection, layout) if layout else None))
        except (EOFError, OSError):
            ended = True
        self.exited = ended
        return received

    def kill(self) -> None:
        """Kill the process at once."""
        self._process.kill()

    def wait(self) -> int:
        """Wait a few seconds for the process to exit, then kill it.

        Returns:
            The exit status, or minus the signal that ended it.
        """
        self.connection.close()
        try:
            return self._process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel, for example on a dead network disk
            self._process.wait(_EXIT_TIMEOUT)
        return self._process.returncode or 0
