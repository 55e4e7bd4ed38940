"""A worker or opener process as seen by the process that started it, and the messages between the two."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any, Generic, Protocol

from ecmf_pipeline.core.errors import WORKER_NOTE, ClipError
from ecmf_pipeline.runner.machine import count_oom_kills, memory_environment, thread_environment
from ecmf_pipeline.runner.shared_arrays import Layout, SharedArrays
from ecmf_pipeline.runner.step import Done, ItemT, Phase, Task, extra_seconds

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
class Death:
    """Event: a process has ended, or was killed because its job took too long.

    Attributes:
        status: Exit status of the process, or minus the signal that ended it.
        phase: The phase of its job; None if it had none, or had not started it.
        position: The item that it was opening.
        timed_out: Whether it was killed because a clip took too long.
        oom_killed: Whether the kernel of its machine has killed processes for lack of memory since its job started.
        lost: Whether it ended together with its machine or the connection to it, whatever its job was.
    """

    status: int
    phase: Phase | None = None
    position: int = 0
    timed_out: bool = False
    oom_killed: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class BatchLost:
    """Event: the opened items of a job were lost with the machine that held them; the worker is idle."""


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


class OpenedItems(Protocol):
    """The opened items of a batch, in shared memory."""

    @property
    def layout(self) -> Layout:
        """Positions of the objects in the memory."""

    def close(self) -> None:
        """Release the memory."""


@dataclass(frozen=True, slots=True)
class Job(Generic[ItemT]):
    """A task for a worker or an opener.

    Attributes:
        task: The task.
        suspect: Role of the process that the job may have broken; None if it is not a suspect. A suspect is one piece
            of one item.
        root: Name of the task that the job was split from.
        arrays: The opened items, if an opener has opened them.
        losses: How often it was lost with a machine.
    """

    task: Task[ItemT]
    suspect: Role | None = None
    root: str = ""
    arrays: OpenedItems | None = None
    losses: int = 0


Event = Ready | Opened | Done[Any] | ProcessFailed | Death | BatchLost


class PoolProcess(ABC, Generic[ItemT]):
    """A worker or opener of a pool, on this machine or on another.

    Attributes:
        role: Worker or opener.
        number: Index among the workers or openers of the run; a replacement takes over the number.
        ready: Whether its step or opener is built.
        job: Its current job.
        jobs_given: Number of jobs given to it so far.
        had_only_suspects: Whether all of them were suspects.
    """

    def __init__(self, role: Role, number: int) -> None:
        self.role = role
        self.number = number
        self.ready = False
        self.job: Job[ItemT] | None = None
        self.jobs_given = 0
        self.had_only_suspects = True

    @abstractmethod
    def begin(self, work: bytes) -> None:
        """Send the new process its role; ``work`` is the pickled factory and spools."""

    @abstractmethod
    def events(self) -> Iterator[tuple[Event, OpenedItems | None]]:
        """Yield the events since the last call, each with its opened items if any; after a `Death` there are none."""

    def give(self, job: Job[ItemT]) -> None:
        """Send a job, with ownership of its opened items if it has any."""
        self.job = replace(job, arrays=None)
        self.jobs_given += 1
        self.had_only_suspects &= job.suspect is not None
        self._send(job)

    def finish(self) -> None:
        """Record the end of the job."""
        self.job = None

    @abstractmethod
    def _send(self, job: Job[ItemT]) -> None:
        """Send a job."""

    @abstractmethod
    def close(self) -> None:
        """Let the process exit normally."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the process at once."""

    @abstractmethod
    def wait(self) -> int:
        """Wait a few seconds for the process to exit, then kill it; return its exit status, or minus the signal."""


class WorkerProcess(PoolProcess[ItemT]):
    """A running worker or opener on this machine.

    Args:
        role: Worker or opener.
        number: Index among the workers or openers of the run.
        threads: Threads of its numerical libraries.
        clip_timeout: Seconds that one clip may take in each phase.

    Attributes:
        connection: The end of the connection on this side.
        deadline: Time (`time.monotonic`) after which the process counts as hanging.
    """

    def __init__(self, role: Role, number: int, threads: int, clip_timeout: float) -> None:
        super().__init__(role, number)
        self.deadline = math.inf
        self._clip_timeout = clip_timeout
        self._phase: Phase | None = None
        self._position = 0
        self._oom_kills = 0
        self._exited = False
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
        """See `PoolProcess`."""
        with suppress(OSError):  # it has exited; `events` detects this
            self.connection.send(Start(self.role, self.number, work))

    def events(self) -> Iterator[tuple[Event, OpenedItems | None]]:
        """See `PoolProcess`."""
        for message, arrays in self._messages():
            if isinstance(message, PhaseStarted):
                self._start_phase(message.phase, message.position)
                continue
            if isinstance(message, Opened | Done):
                self._phase, self.deadline = None, math.inf
            yield message, arrays
        if self._exited or time.monotonic() > self.deadline:
            yield self._end(timed_out=not self._exited), None

    def _send(self, job: Job[ItemT]) -> None:
        self._phase = None
        self._oom_kills = count_oom_kills()
        with suppress(OSError):
            if not isinstance(job.arrays, SharedArrays):
                self.connection.send(job.task)
                return
            with closing(job.arrays):
                self.connection.send(Delivery(job.task, job.arrays.layout))
                job.arrays.send(self.connection)

    def _start_phase(self, phase: Phase, position: int) -> None:
        """Record the start of a phase of the job, and its deadline."""
        self._phase, self._position = phase, position
        if phase is Phase.KEEP or self.job is None:
            self.deadline = math.inf  # a slow disk is not the fault of a clip
            return
        items = self.job.task.items if phase is Phase.WORK else self.job.task.items[position : position + 1]
        self.deadline = time.monotonic() + sum(self._clip_timeout + extra_seconds(item) for item in items)

    def _messages(self) -> list[tuple[Any, SharedArrays | None]]:
        """Return the messages since the last call, each with its arrays if any."""
        received: list[tuple[Any, SharedArrays | None]] = []
        ended = self._process.poll() is not None  # checked first: its last messages are then already in the pipe
        try:
            while self.connection.poll():
                message = self.connection.recv()
                layout = message.layout if isinstance(message, Opened) else None
                received.append((message, SharedArrays.receive(self.connection, layout) if layout else None))
        except (EOFError, OSError):
            ended = True
        self._exited = ended
        return received

    def _end(self, *, timed_out: bool) -> Death:
        if timed_out:
            self.kill()
        status = self.wait()
        return Death(status, self._phase, self._position, timed_out, count_oom_kills() > self._oom_kills)

    def close(self) -> None:
        """See `PoolProcess`."""
        self.connection.close() if self.ready else self.kill()

    def kill(self) -> None:
        """See `PoolProcess`."""
        self._process.kill()

    def wait(self) -> int:
        """See `PoolProcess`."""
        self.connection.close()
        try:
            return self._process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel, for example on a dead network disk
            self._process.wait(_EXIT_TIMEOUT)
        return self._process.returncode or 0
