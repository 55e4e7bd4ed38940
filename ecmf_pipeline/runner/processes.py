"""Workers that are processes of this machine: one that crashes, hangs or is killed costs its clip and nothing else.

What they do when one of them breaks is in `crew`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import Any

from ecmf_pipeline.runner import parcels
from ecmf_pipeline.runner.crew import Crew
from ecmf_pipeline.runner.engine import Done, Task
from ecmf_pipeline.runner.machine import usable_cores
from ecmf_pipeline.runner.step import ItemT, Keeper, StagedFactory, StepFactory
from ecmf_pipeline.runner.waiting import Waiting


class LocalProcesses:
    """Runs workers as processes of this machine.

    Args:
        workers: How many; None is as many as the cores that this process may use hold.
        clip_timeout: Seconds that one clip may take to be read, and again to be worked on.
        threads: Threads of each worker's numerical libraries.
        openers: How many further processes open clips for the workers (Linux); 0: the workers do it themselves, which
            on a CPU is the faster way. The factory must be a `StagedFactory` then.
    """

    def __init__(
        self, workers: int | None = None, clip_timeout: float = 300.0, threads: int = 1, openers: int = 0
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"at least one worker is needed, not {workers}")
        if openers and not parcels.ARE_THERE:
            raise ValueError("openers need Linux: elsewhere let the workers open clips themselves (openers: 0)")
        self._workers = max(1, usable_cores() // threads) if workers is None else workers
        self._clip_timeout = clip_timeout
        self._threads = threads
        self._openers = openers

    def run(self, tasks: Iterable[Task[ItemT]], factory: StepFactory, keeper: Keeper[Any]) -> Iterator[Done[ItemT]]:
        """Work on the tasks; see `Engine`."""
        if self._openers and not isinstance(factory, StagedFactory):
            raise TypeError(f"{type(factory).__name__} cannot build openers, and {self._openers} are asked for")
        crew = Crew(Waiting(tasks), pickle.dumps((factory, keeper)), self._clip_timeout, self._threads)
        try:
            crew.hire(self._workers, self._openers)
            while crew.has_work():
                yield from crew.listen()
            crew.dismiss()
        finally:
            crew.stop()
