"""What the main process and those that it hires tell each other, besides `Task` and `Done`."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ecmf_pipeline.errors import WORKER_NOTE, ClipError, OutOfMemory
from ecmf_pipeline.runner.engine import Phase, Task
from ecmf_pipeline.runner.parcels import Layout


class Role(StrEnum):
    """What a process is hired for."""

    WORKER = "worker"
    OPENER = "opener"


@dataclass(frozen=True, slots=True)
class Start:
    """To a new process: who it is, and the factory and keeper it works with, pickled."""

    role: Role
    number: int
    work: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """The process has built its step or opener."""


@dataclass(frozen=True, slots=True)
class At:
    """The process begins a phase of its batch, with the item at a position; see `Watch`."""

    phase: Phase
    position: int


@dataclass(frozen=True, slots=True)
class Opened:
    """From an opener: what became of the items of its batch, each by its position; the parcel follows.

    Attributes:
        good: Those that the parcel holds, in its order.
        bad: Those that cannot be opened, and why.
        too_much: Those for which memory ran out, and what to say of them if they were alone.
        layout: The parcel's; None where no item is good, and no parcel follows.
    """

    good: Sequence[int]
    bad: Sequence[tuple[int, ClipError]]
    too_much: Sequence[tuple[int, OutOfMemory]]
    layout: Layout | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """To a worker: a batch that an opener has opened; its parcel follows."""

    task: Task[Any]
    layout: Layout


@dataclass(frozen=True, slots=True)
class Failed:
    """Something was raised in the process that is no clip's fault."""

    error: bytes
    trace: str

    @classmethod
    def by(cls, error: BaseException) -> Failed:
        """What to send for an error, also for one that cannot be pickled."""
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
        """The error as it was raised, with the process's traceback as a note."""
        error: Exception = pickle.loads(self.error)
        error.add_note(f"{WORKER_NOTE}\n{self.trace}")
        return error
