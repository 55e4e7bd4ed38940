"""Who runs the workers: the seam behind which this process, processes of this machine and later a cluster fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol

from ecmf_pipeline.errors import ClipError, OutOfMemory
from ecmf_pipeline.runner.step import ItemT, Keeper, Outcome, Step, StepFactory, Target


@dataclass(frozen=True, slots=True)
class Task(Generic[ItemT]):
    """One batch.

    Attributes:
        name: Unique in the run, and a plain file name; names sort in the order of the items.
        chunk: Index of the chunk that the batch is a part of.
        items: What to work on.
    """

    name: str
    chunk: int
    items: tuple[ItemT, ...]


@dataclass(frozen=True, slots=True)
class Done(Generic[ItemT]):
    """What became of one batch.

    Attributes:
        task: The batch.
        kept: Rows kept, by branch.
        errors: The targets that have no row, and why.
    """

    task: Task[ItemT]
    kept: Mapping[str, int]
    errors: Sequence[tuple[Target, ClipError]]


class Engine(Protocol):
    """Who runs the workers."""

    def run(self, tasks: Iterable[Task[ItemT]], factory: StepFactory, keeper: Keeper[Any]) -> Iterator[Done[ItemT]]:
        """Work on all tasks, in any order; a generator, and closing it stops the workers.

        A task that broke a worker comes back in several pieces, each with a name of its own. Every item comes back
        exactly once.
        """


class Phase(StrEnum):
    """What a worker is busy with."""

    OPEN = "read"
    WORK = "worked on"
    KEEP = "kept"


Watch = Callable[[Phase, int], None]
"""Is told each phase as it starts, with the position in the batch of the item that is being opened (else 0)."""


def perform(step: Step[ItemT, Any, Any], keeper: Keeper[Any], task: Task[ItemT], watch: Watch) -> Done[ItemT]:
    """Open, work on and keep one batch: what every worker does, wherever it lives."""
    opened: list[tuple[ItemT, Any]] = []
    errors: list[tuple[Target, ClipError]] = []
    for position, item in enumerate(task.items):
        watch(Phase.OPEN, position)
        try:
            opened.append((item, step.open(item)))
        except ClipError as error:
            errors += [(target, error) for target in item.targets]
        except MemoryError as error:
            errors += _out_of_memory(item, "read", error)
    rows: dict[str, list[Any]] = defaultdict(list)
    if opened:
        watch(Phase.WORK, 0)
        for outcome in _complete(_work(step, opened), [item for item, _ in opened]):
            if isinstance(outcome.result, ClipError):
                errors.append((outcome.target, outcome.result))
            else:
                rows[outcome.target.branch].append(outcome.result)
    opened.clear()  # pictures take much room, and keeping takes time
    watch(Phase.KEEP, 0)
    for branch, finished in rows.items():
        keeper.keep(task.name, branch, finished)
    return Done(task, {branch: len(finished) for branch, finished in rows.items()}, errors)


def _work(step: Step[ItemT, Any, Any], opened: Sequence[tuple[ItemT, Any]]) -> Sequence[Outcome[Any]]:
    try:
        return step.work(opened)
    except MemoryError:
        pass  # one of them may be too much, or all of them together
    outcomes: list[Outcome[Any]] = []
    for pair in opened:
        try:
            outcomes += step.work([pair])
        except MemoryError as error:
            outcomes += [Outcome(target, reason) for target, reason in _out_of_memory(pair[0], "worked on", error)]
    return outcomes


def _complete(outcomes: Sequence[Outcome[Any]], items: Sequence[ItemT]) -> Sequence[Outcome[Any]]:
    """A target that a step says nothing about would be lost without a word."""
    missing = {target for item in items for target in item.targets} - {outcome.target for outcome in outcomes}
    if missing:
        raise RuntimeError(
            f"the step said nothing about {len(missing)} of its targets, such as {min(missing, key=str)}"
        )
    return outcomes


def _out_of_memory(item: ItemT, doing: str, error: MemoryError) -> list[tuple[Target, ClipError]]:
    found = f" ({error})" if str(error) else ""
    reason = OutOfMemory(f"memory ran out while the clip alone was being {doing}{found}")
    return [(target, reason) for target in item.targets]


class InProcess:
    """Runs everything in this very process: no isolation, for debugging and where processes may not be started."""

    def run(self, tasks: Iterable[Task[ItemT]], factory: StepFactory, keeper: Keeper[Any]) -> Iterator[Done[ItemT]]:
        """Work on the tasks one after the other; see `Engine`."""
        step: Step[ItemT, Any, Any] | None = None
        try:
            for task in tasks:
                step = step or factory(0)
                yield perform(step, keeper, task, _unwatched)
        finally:
            if step is not None:
                step.close()


def _unwatched(_phase: Phase, _position: int) -> None:
    """Nobody needs to know: what breaks this process breaks the run."""
