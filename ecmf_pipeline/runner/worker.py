"""A worker process: ``python -m ecmf_pipeline.runner.worker DESCRIPTOR PARENT``, started by `LocalProcesses`.

Reads tasks from its end of a socket pair until the other end is closed, and says before each step what it is about to
do, so that whoever finds it dead knows with which clip.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ecmf_pipeline.runner.engine import Done, Phase, Task, perform
from ecmf_pipeline.runner.messages import At, Failed, Ready, Start
from ecmf_pipeline.runner.step import Keeper, Step, StepFactory

_PR_SET_PDEATHSIG = 1
_OOM_SCORE_ADJ = 1000  # the highest: a worker costs one batch, anything else on the machine costs more


def main(descriptor: int, parent: int) -> None:
    """Work for ``parent`` until it closes the connection or dies."""
    # The main process answers these; the last one would stop a process that writes to another's terminal.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)  # what a step starts must not keep the line open
    _die_with(parent)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_ADJ))
    line = _Line(Connection(descriptor))
    try:
        _serve(line)
    except BaseException as error:  # noqa: BLE001 - it is raised again in the main process
        line.send(Failed.by(error))


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, even by SIGKILL; elsewhere the closed line does it."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it was gone before we asked
        os._exit(1)


class _Line:
    """The connection to the main process; when that is gone there is nobody to work for, and the worker ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, message: Ready | At | Failed | Done[Any]) -> None:
        pickled = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            self._connection.send_bytes(pickled)
        except OSError:
            os._exit(1)

    def receive(self) -> Any:
        """The next message; None when there will be no more."""
        try:
            pickled = self._connection.recv_bytes()
        except (EOFError, OSError):
            return None
        return pickle.loads(pickled)

    def watch(self, phase: Phase, position: int) -> None:
        self.send(At(phase, position))


def _serve(line: _Line) -> None:
    start: Start | None = line.receive()
    if start is None:
        return
    work: tuple[StepFactory, Keeper[Any]] = pickle.loads(start.work)
    factory, keeper = work
    step: Step[Any, Any, Any] = factory(start.worker)
    line.send(Ready())
    while (task := line.receive()) is not None:
        line.send(perform(step, keeper, _checked(task), line.watch))
    step.close()


def _checked(task: object) -> Task[Any]:
    if not isinstance(task, Task):
        raise TypeError(f"a worker was given {task!r} to do")
    return task


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    # All is kept and told: libraries' own clean-up at exit could only take time, or crash.
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)
