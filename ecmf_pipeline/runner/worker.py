"""Main program of a worker or opener: ``python -m ecmf_pipeline.runner.worker DESCRIPTOR PARENT``.

`WorkerProcess` starts it. It reads tasks from its end of a socket pair until the other end closes. It reports each
phase before starting it, which lets the main process attribute its death to a clip. A worker opens, computes and stores
the items of a task; the items of a `Delivery` were already opened by an opener.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ecmf_pipeline.runner.machine import is_device_failure
from ecmf_pipeline.runner.shared_arrays import Layout, SharedArrays, pack, unpack
from ecmf_pipeline.runner.step import (
    Batch,
    Done,
    Opener,
    Phase,
    Step,
    Task,
    finish_batch,
    item_error,
    open_items,
    picklable_error,
    run_task,
)
from ecmf_pipeline.runner.worker_process import Delivery, Opened, PhaseStarted, ProcessFailed, Ready, Role, Start

_PR_SET_PDEATHSIG = 1
_OOM_SCORE_ADJ = 1000  # the highest: losing a worker loses one batch, less than any other process


def main(descriptor: int, parent: int) -> None:
    """Work for ``parent`` until it closes the connection or exits."""
    # The main process handles these. SIGTTOU would stop a background process that writes to the terminal.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)  # child processes of a step must not keep the connection open
    _exit_with(parent)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_ADJ))
    connection = _ParentConnection(Connection(descriptor))
    try:
        _serve(connection)
    except BaseException as error:  # noqa: BLE001 - raised again in the main process
        connection.send(ProcessFailed.from_error(error))


def _exit_with(parent: int) -> None:
    """Make the kernel kill this process when its parent exits, even by SIGKILL (Linux only).

    On other systems the closed connection ends it.
    """
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it exited before the call above
        os._exit(1)


class _ParentConnection:
    """The connection to the main process; if it breaks, this process exits."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(
        self, message: Ready | PhaseStarted | ProcessFailed | Opened | Done[Any], arrays: SharedArrays | None = None
    ) -> None:
        pickled = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            self._connection.send_bytes(pickled)
            if arrays is not None:
                arrays.send(self._connection)
        except OSError:
            os._exit(1)

    def receive(self) -> Any:
        """Return the next message; None after the last one."""
        try:
            pickled = self._connection.recv_bytes()
        except (EOFError, OSError):
            return None
        return pickle.loads(pickled)

    def unpack(self, task: Task[Any], layout: Layout) -> Batch[Any]:
        """Receive the arrays of a delivery and return the opened items of its task."""
        try:
            arrays = SharedArrays.receive(self._connection, layout)
        except (EOFError, OSError):
            os._exit(1)
        with closing(arrays):
            try:
                return Batch(list(zip(task.items, unpack(arrays), strict=True)))
            except Exception as error:  # noqa: BLE001 - this process opens the items again, one at a time
                return Batch(retries=[(item, item_error(Phase.OPEN, error)) for item in task.items])

    def watch(self, phase: Phase, position: int) -> None:
        self.send(PhaseStarted(phase, position))


def _serve(parent: _ParentConnection) -> None:
    start: Start | None = parent.receive()
    if start is None:
        return
    factory, spools = pickle.loads(start.work)
    if start.role is Role.OPENER:
        opener: Opener[Any, Any] = factory.opener(start.number)
        parent.send(Ready())
        while (task := parent.receive()) is not None:
            _open_batch(parent, opener, task)
        opener.close()
        return
    step: Step[Any, Any, Any] = factory(start.number)
    parent.send(Ready())
    while (order := parent.receive()) is not None:
        with _exit_on_device_failure():
            if isinstance(order, Delivery):
                batch = parent.unpack(order.task, order.layout)
                done = finish_batch(step, spools, order.task, batch, parent.watch)
            else:
                done = run_task(step, spools, order, parent.watch)
        parent.send(done)
    step.close()


@contextmanager
def _exit_on_device_failure() -> Iterator[None]:
    """End this process if a CUDA call fails: every later call fails too, so fresh processes must try its items."""
    try:
        yield
    except Exception as error:
        if not is_device_failure(error):
            raise
        traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(1)


def _open_batch(parent: _ParentConnection, opener: Opener[Any, Any], task: Task[Any]) -> None:
    """Open a batch and send it to the main process, without items that fail."""
    batch = open_items(opener, task.items, parent.watch)
    arrays = None
    try:
        arrays = pack([opened for _, opened in batch.opened]) if batch.opened else None
    except Exception as error:  # noqa: BLE001 - memory is too small, or an item cannot be pickled
        batch.retries += [(item, item_error(Phase.OPEN, error)) for item, _ in batch.opened]
        batch.opened.clear()
    position_of = {id(item): position for position, item in enumerate(task.items)}
    message = Opened(
        good=[position_of[id(item)] for item, _ in batch.opened],
        bad=[(position_of[id(item)], picklable_error(error)) for item, error in batch.errors],
        retries=[(position_of[id(item)], error) for item, error in batch.retries],
        layout=arrays.layout if arrays else None,
    )
    batch.opened.clear()  # the shared arrays hold a copy
    parent.send(message, arrays)
    if arrays is not None:
        arrays.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    # All results are stored and reported: clean-up of libraries at exit could only take time, or crash.
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)
