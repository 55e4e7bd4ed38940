"""Run slow work of the page in other processes: reading all clips, encoding media, cutting faces, a trial of `refine`.

The server stays fast, and a decoder that crashes on a damaged file ends only a worker.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from ecmf_pipeline.core.errors import WorkerCrashed

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_COUNT = 2
"""One for media of the clips that come next, one for everything else."""
_NICENESS = 5
_PARENT_SECONDS = 1.0


class Workers:
    """Two worker processes, which are started at the first job and replaced if one crashes."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def submit(
        self, job: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Run a function of this package in a worker."""
        with self._lock:
            if self._pool is None:
                self._pool = _new_pool()
            try:
                return self._pool.submit(job, *args, **kwargs)
            except BrokenProcessPool:
                self._pool = _new_pool()
                return self._pool.submit(job, *args, **kwargs)

    async def run(self, job: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Run a function of this package in a worker and wait for its result.

        Raises:
            WorkerCrashed: If the worker process ends, probably in a decoder.
        """
        try:
            return await asyncio.wrap_future(self.submit(job, *args, **kwargs))
        except BrokenProcessPool:
            raise WorkerCrashed("the process that reads this clip has crashed") from None

    def close(self) -> None:
        """End the workers without waiting for their jobs."""
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()


def _new_pool() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(_COUNT, context, initializer=_prepare, initargs=(os.getpid(),))


def _prepare(parent: int) -> None:
    """Lower the priority of a worker, leave Ctrl-C to the server, and end with the server even if that is killed."""
    os.nice(_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
