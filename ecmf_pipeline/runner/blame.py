"""What a worker's end says about the clip that it was working on, alone."""

from __future__ import annotations

import signal

from ecmf_pipeline.errors import ClipError, ClipTimeout, OutOfMemory, WorkerCrashed, WorkerKilled
from ecmf_pipeline.runner.engine import Phase

_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGHUP, signal.SIGTERM)


def name_end(status: int) -> str:
    """An exit status in words: the signal's name, as a rule."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"


def blame(status: int, phase: Phase, *, oom_killed: bool) -> ClipError:
    """The reason for which a clip is set aside that broke its worker.

    Args:
        status: Exit status of the worker; minus the signal that ended it.
        phase: What it was at.
        oom_killed: Whether the kernel has meanwhile killed processes for want of memory.
    """
    found = f"{name_end(status)} while the clip was being {phase.value}, also when it was tried alone"
    if -status == signal.SIGKILL and oom_killed:
        return OutOfMemory(f"the kernel ran out of memory: {found}")
    return WorkerKilled(found) if -status in _FROM_OUTSIDE else WorkerCrashed(found)


def blame_delay(phase: Phase, seconds: float) -> ClipError:
    """The reason for which a clip is set aside that took too long."""
    return ClipTimeout(f"not {phase.value} within {seconds:g} s, also when it was tried alone")
