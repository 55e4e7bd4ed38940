"""Workers that are processes of this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ecmf_pipeline.runner.engine import Done, InProcess, Task
from ecmf_pipeline.runner.step import ItemT, Keeper, StepFactory


class LocalProcesses:
    """Being built: works in this process for the moment."""

    def __init__(self, workers: int | None = None, clip_timeout: float = 300.0, threads: int = 1) -> None:
        self._workers, self._clip_timeout, self._threads = workers, clip_timeout, threads

    def run(self, tasks: Iterable[Task[ItemT]], factory: StepFactory, keeper: Keeper[Any]) -> Iterator[Done[ItemT]]:
        """See `Engine`."""
        yield from InProcess().run(tasks, factory, keeper)
