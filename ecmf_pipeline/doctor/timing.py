"""How long a run's batches take, without the time in which workers load their models."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, cast

from ecmf_pipeline.runner import Engine
from ecmf_pipeline.runner.engine import Done, Task
from ecmf_pipeline.runner.step import ItemT, Keeper, StepFactory


class TimedEngine:
    """Another engine, and a clock beside it.

    Args:
        engine: Who runs the workers; to tell the time of one item it must be a single worker.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._begun = 0.0
        self._finished: list[tuple[float, int]] = []

    def run(self, tasks: Iterable[Task[ItemT]], factory: StepFactory, keeper: Keeper[Any]) -> Iterator[Done[ItemT]]:
        """See `runner.Engine`."""
        self._begun = time.perf_counter()
        results = cast("Iterator[Done[ItemT]]", self._engine.run(tasks, factory, keeper))
        with closing(results) as finished:  # type: ignore[type-var]
            for done in finished:
                self._finished.append((time.perf_counter(), len(done.task.items)))
                yield done

    @property
    def includes_loading(self) -> bool:
        """Whether there was but one batch, so that loading the models cannot be told from working."""
        return len(self._finished) == 1

    def seconds_an_item(self) -> float | None:
        """Seconds for one item. Those of the first batch are left out, for a worker loads its models before it.

        Where there was a single batch, that is told, loading included; None where there was none.
        """
        if not self._finished:
            return None
        if len(self._finished) == 1:
            ended, items = self._finished[0]
            return (ended - self._begun) / items
        return (self._finished[-1][0] - self._finished[0][0]) / sum(items for _, items in self._finished[1:])
