"""A worker or opener process: ``python -m ecmf_pipeline.runner.worker DESCRIPTOR PARENT``, started by `Hired`.

Reads tasks from its end of a socket pair until the other end is closed, and says before each step what it is about to
do, so that whoever finds it dead knows with which clip. A worker opens the items of a task, works on and keeps them; of
a delivery an opener has opened them already.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ecmf_pipeline.runner.messages import At, Delivery, Failed, Layout, Opened, Parcel, Ready, Role, Start, pack, unpack
from ecmf_pipeline.runner.step import (
    Batch,
    Done,
    Keeper,
    Opener,
    Phase,
    StagedFactory,
    Step,
    StepFactory,
    Task,
    finish,
    open_items,
    out_of_memory,
    perform,
)

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

    def send(self, message: Ready | At | Failed | Opened | Done[Any], parcel: Parcel | None = None) -> None:
        pickled = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            self._connection.send_bytes(pickled)
            if parcel is not None:
                parcel.send(self._connection)
        except OSError:
            os._exit(1)

    def receive(self) -> Any:
        """The next message; None when there will be no more."""
        try:
            pickled = self._connection.recv_bytes()
        except (EOFError, OSError):
            return None
        return pickle.loads(pickled)

    def unpack(self, task: Task[Any], layout: Layout) -> Batch[Any]:
        """The opened items of a task, from the parcel that comes now."""
        try:
            parcel = Parcel.receive(self._connection, layout)
        except (EOFError, OSError):
            os._exit(1)
        with closing(parcel):
            try:
                return Batch(list(zip(task.items, unpack(parcel), strict=True)))
            except MemoryError as error:
                return Batch(too_much=[(item, out_of_memory(Phase.OPEN, error)) for item in task.items])

    def watch(self, phase: Phase, position: int) -> None:
        self.send(At(phase, position))


def _serve(line: _Line) -> None:
    start: Start | None = line.receive()
    if start is None:
        return
    work: tuple[StepFactory, Keeper[Any]] = pickle.loads(start.work)
    factory, keeper = work
    if start.role is Role.OPENER and isinstance(factory, StagedFactory):
        opener = factory.opener(start.number)
        line.send(Ready())
        while (task := line.receive()) is not None:
            _open(line, opener, task)
        opener.close()
        return
    step: Step[Any, Any, Any] = factory(start.number)
    line.send(Ready())
    while (order := line.receive()) is not None:
        line.send(_perform(line, step, keeper, order))
    step.close()


def _perform(line: _Line, step: Step[Any, Any, Any], keeper: Keeper[Any], order: object) -> Done[Any]:
    match order:
        case Task():
            return perform(step, keeper, order, line.watch)
        case Delivery(task, layout):
            return finish(step, keeper, task, line.unpack(task, layout), line.watch)
    raise TypeError(f"a worker was given {order!r} to do")


def _open(line: _Line, opener: Opener[Any, Any], task: Task[Any]) -> None:
    """Open a batch and hand it over, without what is bad or too much for memory."""
    batch = open_items(opener, task.items, line.watch)
    parcel = None
    try:
        parcel = pack([opened for _, opened in batch.opened]) if batch.opened else None
    except MemoryError as error:
        batch.too_much += [(item, out_of_memory(Phase.OPEN, error)) for item, _ in batch.opened]
        batch.opened.clear()
    at = {id(item): position for position, item in enumerate(task.items)}
    message = Opened(
        good=[at[id(item)] for item, _ in batch.opened],
        bad=[(at[id(item)], error) for item, error in batch.errors],
        too_much=[(at[id(item)], error) for item, error in batch.too_much],
        layout=parcel.layout if parcel else None,
    )
    batch.opened.clear()  # it is in the parcel by now
    line.send(message, parcel)
    if parcel is not None:
        parcel.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    # All is kept and told: libraries' own clean-up at exit could only take time, or crash.
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)
