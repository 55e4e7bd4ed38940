"""."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Generic

from ecmf_pipeline.runner.messages import Parcel, Role
from ecmf_pipeline.runner.step import ItemT, Phase, Task


@dataclass(frozen=True, slots=True)
class Job(Generic[ItemT]):
    """A task for a worker or an opener.

    Attributes:
        task: What is to be done.
        suspect: Whom it may have broken, where it is one piece of one item, alone, that was there when one broke.
        root: Name of the task that it is left of, where that came back in pieces.
        parcel: Its items, where an opener has opened them.
    """

    task: Task[ItemT]
    suspect: Role | None = None
    root: str = ""
    parcel: Parcel | None = None


class Waiting(Generic[ItemT]):
    """The jobs that nobody has."""

    def __init__(self, tasks: Iterable[Task[ItemT]]) -> None:
        self._tasks = iter(tasks)
        self._first: deque[Job[ItemT]] = deque()
        self._suspects: dict[Role, deque[Job[ItemT]]] = {role: deque() for role in Role}
        self._pieces: Counter[str] = Counter()

    def count(self, most: int) -> int:
        """How many jobs there are; looks no further than ``most``."""
        suspects = sum(map(len, self._suspects.values()))
        missing = most - len(self._first) - suspects
        self._first.extend(Job(task) for task in islice(self._tasks, max(0, missing)))
        return min(most, len(self._first) + suspects)

    def take_suspect(self, role: Role) -> Job[ItemT] | None:
        """The next job that may have broken one of this role, if there is one."""
        return self._suspects[role].popleft() if self._suspects[role] else None

    def take(self) -> Job[ItemT] | None:
        """The next of the other jobs, if there is one."""
        if not self._first:
            self._first.extend(Job(task) for task in islice(self._tasks, 1))
        return self._first.popleft() if self._first else None

    def again(self, job: Job[ItemT]) -> None:
        """Take back a job that broke off through nobody's fault."""
        (self._suspects[job.suspect] if job.suspect else self._first).appendleft(job)

    def split(self, job: Job[ItemT], role: Role, phase: Phase, position: int) -> None:
        """Take back a job that broke whoever had it: what may have done it, piece by piece, the others together.

        Args:
            job: The job.
            role: Whom it broke.
            phase: What that was at. While opening it was one item; while working on all, it may be any.
            position: The item that was being opened.
        """
        items = job.task.items
        suspected, others = items, items[:0]
        if phase is Phase.OPEN:
            suspected, others = items[position : position + 1], items[:position] + items[position + 1 :]
        pieces = [self.part(job, (piece,)) for item in suspected for piece in item.alone()]
        self._suspects[role].extend(replace(piece, suspect=role) for piece in pieces)
        if others:
            self._first.appendleft(self.part(job, others))

    def split_alone(self, job: Job[ItemT], items: Iterable[ItemT]) -> None:
        """Take back some of a job's items, each piece by itself, next."""
        self._first.extendleft([self.part(job, (piece,)) for item in items for piece in item.alone()][::-1])

    def part(self, job: Job[ItemT], items: tuple[ItemT, ...]) -> Job[ItemT]:
        """A part of a job. Its name stays short, however often the task breaks: it becomes a file's name."""
        root = job.root or job.task.name
        self._pieces[root] += 1
        return Job(Task(f"{root}-r{self._pieces[root]:04d}", job.task.chunk, items), root=root)
