"""What the main process and a worker tell each other, besides `Task` and `Done`."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass

from ecmf_pipeline.errors import WORKER_NOTE
from ecmf_pipeline.runner.engine import Phase


@dataclass(frozen=True, slots=True)
class Start:
    """To a new worker: who it is, and the factory and keeper it works with, pickled."""

    worker: int
    work: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has built its step."""


@dataclass(frozen=True, slots=True)
class At:
    """The worker begins a phase of its batch, with the item at a position; see `Watch`."""

    phase: Phase
    position: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Something was raised in the worker that is no clip's fault."""

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
        """The error as it was raised, with the worker's traceback as a note."""
        error: Exception = pickle.loads(self.error)
        error.add_note(f"{WORKER_NOTE}\n{self.trace}")
        return error
