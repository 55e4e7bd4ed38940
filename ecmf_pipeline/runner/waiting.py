"""What is still to be done: tasks in order, those of broken workers first, suspects by themselves."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Generic

from ecmf_pipeline.runner.engine import Phase, Task
from ecmf_pipeline.runner.step import ItemT


@dataclass(frozen=True, slots=True)
class Job(Generic[ItemT]):
    """A task for a worker.

    Attributes:
        task: What is to be done.
        suspect: Whether it is one piece of one item, alone, that was there when a worker broke.
        root: Name of the task that it is left of, where that broke a worker.
    """

    task: Task[ItemT]
    suspect: bool = False
    root: str = ""


class Waiting(Generic[ItemT]):
    """The jobs that no worker has."""

    def __init__(self, tasks: Iterable[Task[ItemT]]) -> None:
        self._tasks = iter(tasks)
        self._first: deque[Job[ItemT]] = deque()
        self._suspects: deque[Job[ItemT]] = deque()
        self._pieces: Counter[str] = Counter()

    def count(self, most: int) -> int:
        """How many jobs there are; looks no further than ``most``."""
        missing = most - len(self._first) - len(self._suspects)
        self._first.extend(Job(task) for task in islice(self._tasks, max(0, missing)))
        return min(most, len(self._first) + len(self._suspects))

    def take(self, *, suspects: bool) -> Job[ItemT] | None:
        """The next job, if there is one.

        Args:
            suspects: Whether suspects are wanted (they come first then), or never.
        """
        if suspects and self._suspects:
            return self._suspects.popleft()
        if not self._first:
            self._first.extend(Job(task) for task in islice(self._tasks, 1))
        return self._first.popleft() if self._first else None

    def again(self, job: Job[ItemT]) -> None:
        """Take back a job that broke off through nobody's fault."""
        (self._suspects if job.suspect else self._first).appendleft(job)

    def split(self, job: Job[ItemT], phase: Phase, position: int) -> None:
        """Take back a job that broke its worker: whoever may have done it, piece by piece, the others together.

        Args:
            job: The job.
            phase: What the worker was at. While opening it was one item; while working on all, it may be any.
            position: The item that was being opened.
        """
        items = job.task.items
        suspected, others = items, items[:0]
        if phase is Phase.OPEN:
            suspected, others = items[position : position + 1], items[:position] + items[position + 1 :]
        self._suspects.extend(self._piece(job, (piece,), suspect=True) for item in suspected for piece in item.alone())
        if others:
            self._first.appendleft(self._piece(job, others, suspect=False))

    def _piece(self, job: Job[ItemT], items: tuple[ItemT, ...], *, suspect: bool) -> Job[ItemT]:
        """What is left of a job. Its name stays short, however often the task breaks: it becomes a file's name."""
        root = job.root or job.task.name
        self._pieces[root] += 1
        return Job(Task(f"{root}-r{self._pieces[root]:04d}", job.task.chunk, items), suspect, root)
