"""One worker or opener process, seen from the main process."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any, Generic

from ecmf_pipeline.runner.jobs import Job
from ecmf_pipeline.runner.machine import count_oom_kills, memory_settings, thread_settings
from ecmf_pipeline.runner.messages import Delivery, Opened, Parcel, Role, Start
from ecmf_pipeline.runner.step import ItemT, Phase

_STDERR = 2
_SECONDS_TO_END = 5.0


class Hired(Generic[ItemT]):
    """A running worker or opener, what it has to do and how far it is.

    Attributes:
        role: Which of the two it is.
        number: Which of the run's workers or openers it is, or stands in for.
        connection: Our end of the line to it.
        ready: Whether its step or opener is built.
        job: What it has to do just now.
        phase: What it is at with that; None when it has not begun.
        position: The item that it is opening.
        deadline: When (`time.monotonic`) it is taken to hang.
        given: How many jobs it was given so far.
        only_suspects: Whether all of them were suspects alone.
        oom_kills: The kernel's count when it was given the last one.
        gone: Whether its end of the line is closed.
    """

    def __init__(self, role: Role, number: int, threads: int) -> None:
        self.role = role
        self.number = number
        self.ready = False
        self.job: Job[ItemT] | None = None
        self.phase: Phase | None = None
        self.position = 0
        self.deadline = math.inf
        self.given = 0
        self.only_suspects = True
        self.oom_kills = 0
        self.gone = False
        self.connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ecmf_pipeline.runner.worker", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,  # standard output is for what the command itself has to say
                env=os.environ | thread_settings(threads) | memory_settings() | {"PYTHONPATH": _search_path()},
                pass_fds=(theirs.fileno(),),
                process_group=0,  # a terminal's Ctrl-C is for the main process alone
            )

    def begin(self, work: bytes) -> None:
        """Tell the new process who it is; ``work`` is the pickled factory and keeper."""
        with suppress(OSError):  # it is dead already, as its closed line will tell
            self.connection.send(Start(self.role, self.number, work))

    def give(self, job: Job[ItemT]) -> None:
        """Give it a job, and its parcel, if there is one, for good."""
        self.job, self.phase = replace(job, parcel=None), None
        self.given += 1
        self.only_suspects &= job.suspect is not None
        self.oom_kills = count_oom_kills()
        with suppress(OSError):
            if job.parcel is None:
                self.connection.send(job.task)
                return
            with closing(job.parcel):
                self.connection.send(Delivery(job.task, job.parcel.layout))
                job.parcel.send(self.connection)

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

    def messages(self) -> list[tuple[Any, Parcel | None]]:
        """What it has said since the last call, with the parcel that came along; finds out whether it is gone."""
        said: list[tuple[Any, Parcel | None]] = []
        ended = self._process.poll() is not None  # asked first: what it said before its end is in the line by now
        try:
            while self.connection.poll():
                message = self.connection.recv()
                layout = message.layout if isinstance(message, Opened) else None
                said.append((message, Parcel.receive(self.connection, layout) if layout else None))
        except (EOFError, OSError):
            ended = True
        self.gone = ended
        return said

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def dismiss(self) -> None:
        """Tell it that there is nothing more to do."""
        self.connection.close()

    def wait(self) -> int:
        """Wait for its end, not for ever, and return its exit status; minus the signal that ended it."""
        self.connection.close()
        try:
            return self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel, on a dead network disk say: left behind
            self._process.wait(_SECONDS_TO_END)
        return self._process.returncode or 0


def _search_path() -> str:
    """Where this process finds modules, so that the worker finds what is pickled."""
    return os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
