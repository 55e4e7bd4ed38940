"""A worker or opener process: ``python -m ecmf_pipeline.runner.worker DESCRIPTOR PARENT``, started by `WorkerProcess`.

It reads tasks from its end of a socket pair until the other end is closed, and reports each step before it begins it,
so that its death can be blamed on a clip. A worker opens the items of a task, works on and keeps them; those of a
delivery have been opened by an opener already.
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

from ecmf_pipeline.runner.shared_arrays import Layout, SharedArrays, pack, unpack
from ecmf_pipeline.runner.step import (
    Batch,
    Done,
    Opener,
    Phase,
    Step,
    Task,
    finish,
    open_items,
    out_of_memory,
    perform,
)
from ecmf_pipeline.runner.worker_process import At, Delivery, Failed, Opened, Ready, Role, Start

_PR_SET_PDEATHSIG = 1
_OOM_SCORE_ADJ = 1000  # the highest: a worker costs one batch, anything else on the machine costs more


def main(descriptor: int, parent: int) -> None:
    """Work for ``parent`` until it closes the connection or dies."""
    # The main process answers these; the last one would stop a process that writes to another's terminal.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)  # what a step starts must not keep the connection open
    _die_with(parent)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_ADJ))
    parent_line = _ParentConnection(Connection(descriptor))
    try:
        _serve(parent_line)
    except BaseException as error:  # noqa: BLE001 - it is raised again in the main process
        parent_line.send(Failed.by(error))


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, even by SIGKILL; elsewhere the closed line does it."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it was gone before we asked
        os._exit(1)


class _ParentConnection:
    """The connection to the main process; if that is gone there is nobody to work for, and this process ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, message: Ready | At | Failed | Opened | Done[Any], arrays: SharedArrays | None = None) -> None:
        pickled = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            self._connection.send_bytes(pickled)
            if arrays is not None:
                arrays.send(self._connection)
        except OSError:
            os._exit(1)

    def receive(self) -> Any:
        """Return the next message; None if there will be no more."""
        try:
            pickled = self._connection.recv_bytes()
        except (EOFError, OSError):
            return None
        return pickle.loads(pickled)

    def unpack(self, task: Task[Any], layout: Layout) -> Batch[Any]:
        """Return the opened items of a task, from the arrays that come now."""
        try:
            arrays = SharedArrays.receive(self._connection, layout)
        except (EOFError, OSError):
            os._exit(1)
        with closing(arrays):
            try:
                return Batch(list(zip(task.items, unpack(arrays), strict=True)))
            except MemoryError as error:
                return Batch(too_much=[(item, out_of_memory(Phase.OPEN, error)) for item in task.items])

    def watch(self, phase: Phase, position: int) -> None:
        self.send(At(phase, position))


def _serve(parent: _ParentConnection) -> None:
    start: Start | None = parent.receive()
    if start is None:
        return
    factory, spools = pickle.loads(start.work)
    if start.role is Role.OPENER:
        opener: Opener[Any, Any] = factory.opener(start.number)
        parent.send(Ready())
        while (task := parent.receive()) is not None:
            _open(parent, opener, task)
        opener.close()
        return
    step: Step[Any, Any, Any] = factory(start.number)
    parent.send(Ready())
    while (order := parent.receive()) is not None:
        if isinstance(order, Delivery):
            batch = parent.unpack(order.task, order.layout)
            parent.send(finish(step, spools, order.task, batch, parent.watch))
        else:
            parent.send(perform(step, spools, order, parent.watch))
    step.close()


def _open(parent: _ParentConnection, opener: Opener[Any, Any], task: Task[Any]) -> None:
    """Open a batch and hand it over, without what is bad or too much for memory."""
    batch = open_items(opener, task.items, parent.watch)
    arrays = None
    try:
        arrays = pack([opened for _, opened in batch.opened]) if batch.opened else None
    except MemoryError as error:
        batch.too_much += [(item, out_of_memory(Phase.OPEN, error)) for item, _ in batch.opened]
        batch.opened.clear()
    at = {id(item): position for position, item in enumerate(task.items)}
    message = Opened(
        good=[at[id(item)] for item, _ in batch.opened],
        bad=[(at[id(item)], error) for item, error in batch.errors],
        too_much=[(at[id(item)], error) for item, error in batch.too_much],
        layout=arrays.layout if arrays else None,
    )
    batch.opened.clear()  # it is in the shared arrays by now
    parent.send(message, arrays)
    if arrays is not None:
        arrays.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    # All is kept and reported: libraries' own clean-up at exit could only take time, or crash.
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)
