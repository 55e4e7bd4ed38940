"""What workers do: a step reads items and computes rows, batch by batch; an engine decides which process runs it.

A worker has a `Spool` of each branch and makes every finished batch durable at once. The main process has the
`SpoolWriter`, the only one by its lock, which turns batches into their permanent form and takes up what killed runs
have left.
"""

from __future__ import annotations

import shutil
import uuid
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from ecmf_pipeline.core.errors import ClipError, OutOfMemory, StoreError
from ecmf_pipeline.core.files import exclusive, flush_folder, write_atomic


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to compute for a clip: the features of one modality, say.

    Attributes:
        clip_id: The clip.
        branch: Which table the result goes to (a modality).
        digest: Digest of the input.
    """

    clip_id: str
    branch: str
    digest: str


class Item(Protocol):
    """What the loop runs over: picklable, carrying all that a worker needs to know of one clip."""

    @property
    def targets(self) -> Sequence[Target]:
        """What is to be computed for it."""

    def alone(self) -> Sequence[Self]:
        """The item in pieces that fail by themselves, itself where it is one: what broke one says nothing of the next.

        A piece has targets of the item, and each of them is in one piece.
        """


ItemT = TypeVar("ItemT", bound=Item)
Opened = TypeVar("Opened")
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Row]):
    """What became of one target: a row, or the reason why there is none."""

    target: Target
    result: Row | ClipError


class Opener(ABC, Generic[ItemT, Opened]):
    """The first half of a `Step`: what needs no model."""

    @abstractmethod
    def open(self, item: ItemT) -> Opened:
        """Read one item's input.

        Raises:
            ClipError: When the input is bad: all the item's targets are quarantined.
            MemoryError: When memory runs out: the item is tried again when that of the others is free, piece by piece.
        """

    def close(self) -> None:
        """Let go of what it holds (native objects, models)."""


class Step(Opener[ItemT, Opened], Generic[ItemT, Opened, Row]):
    """What a long loop does; lives in a worker."""

    @abstractmethod
    def work(self, batch: Sequence[tuple[ItemT, Opened]]) -> list[Outcome[Row]]:
        """Compute the targets of several opened items at once.

        Raises:
            MemoryError: When memory runs out: the items are worked on one by one.
        """


class StepFactory(Protocol):
    """Builds the step in the worker that runs it; picklable.

    To have items opened by openers (`RunConfig.openers`), it also needs a method ``opener(number)``, which builds, in a
    process of its own, an `Opener` that opens items as the step does, without its models. What is opened is pickled.
    """

    def __call__(self, worker: int) -> Step[Any, Any, Any]:
        """Build the step and load its models; the number of the worker, 0 to N - 1, picks a graphics card, say."""


@dataclass(frozen=True, slots=True)
class Spool(Generic[Row]):
    """The finished batches of one run. Small and picklable: every worker has a copy.

    Attributes:
        folder: Where the files are; shared by all runs on the same store.
        pack: Turns the rows of a batch into bytes; picklable.
        run: This run's name, in hex. A worker that outlives its run for a moment can never mix with the next run's.
    """

    folder: Path
    pack: Callable[[Sequence[Row]], bytes]
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def keep(self, task: str, rows: Sequence[Row]) -> None:
        """Make the rows of a finished task durable, whole or not at all: they are when this returns."""
        write_atomic(self._path(task), self.pack(rows))
        flush_folder(self.folder)

    def read(self, task: str) -> bytes | None:
        """Return the batch kept under a name; None if there is none."""
        try:
            return self._path(task).read_bytes()
        except FileNotFoundError:
            return None

    def drop(self, tasks: Iterable[str]) -> None:
        """Remove batches that have found their permanent form."""
        for task in tasks:
            self._path(task).unlink(missing_ok=True)

    def _path(self, task: str) -> Path:
        return self.folder / f"{self.run}.{task}.batch"


def leftover_batches(folder: Path) -> list[Path]:
    """Return the finished batches in the spool of a store that no run is writing to, in the order of the work."""
    return sorted(folder.glob("*.batch"))


class SpoolWriter(ABC, Generic[Row]):
    """The one writer of a folder; a context manager that holds its lock.

    On entering it takes up what killed runs have left, so that a plan made afterwards counts it as done.

    Args:
        spool: Where this run's workers keep their finished batches.
        lock: The lock file.
        what: What is written to, for messages.

    Attributes:
        adopted: How many rows of killed runs were taken up.

    Raises:
        StoreBusy: On entering, when another run writes to the same.
    """

    def __init__(self, spool: Spool[Row], *, lock: Path, what: str) -> None:
        self.spool = spool
        self.adopted = 0
        self._lock = lock
        self._what = what
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            exits.enter_context(exclusive(self._lock, self._what))
            self._refresh()
            self._clear_unfinished()
            self.adopted = self._adopt(leftover_batches(self.spool.folder))
            self._start()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for folder in (self.spool.folder, self.spool.folder.parent):
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()
        self._exits.close()

    def _refresh(self) -> None:
        """Read what other runs have changed before this one got the lock."""

    @abstractmethod
    def _adopt(self, leftovers: Sequence[Path]) -> int:
        """Add the finished batches of dead runs, remove them, and return how many rows they were."""

    def _start(self) -> None:
        """Do what must follow the adoption."""

    def _clear_unfinished(self) -> None:
        """Remove what killed processes were writing."""
        for pattern in ("part-*", ".*"):
            for path in self.spool.folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    @contextmanager
    def _kept(self, tasks: Sequence[str]) -> Iterator[list[bytes]]:
        """Yield the batches kept under some names; they leave the spool when the block has made them permanent.

        Raises:
            StoreError: When some of them are gone: a batch that a worker has reported must never be missed silently.
        """
        batches = {task: self.spool.read(task) for task in tasks}
        if lost := [task for task, payload in batches.items() if payload is None]:
            raise StoreError(
                f"{self.spool.folder}: finished batches are gone ({', '.join(lost[:3])})",
                "something else removed them while the run went on; run the same command again to compute them",
            )
        yield [payload for payload in batches.values() if payload is not None]
        self.spool.drop(tasks)


class PartWriter(SpoolWriter[Row]):
    """The one writer of a folder of numbered, immutable parts."""

    _base = 0

    @abstractmethod
    def seal(self, number: int, tasks: Sequence[str], clip_ids: Sequence[str]) -> int:
        """Make one part of what workers kept, of all or nothing.

        Args:
            number: The part's place among those of this run.
            tasks: The names under which batches were kept.
            clip_ids: The order of the rows; a clip of which nothing was kept is skipped.

        Returns:
            How many rows were kept.

        Raises:
            StoreError: When something that was kept is gone.
        """

    @abstractmethod
    def _next_number(self) -> int:
        """Return the number of the next part."""

    def _start(self) -> None:
        self._base = self._next_number()

    def _place(self, number: int | None) -> int:
        """Return a part's number: the next free one, or that of the ``number``-th of this run."""
        return self._next_number() if number is None else self._base + number


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

    def run(
        self, tasks: Iterable[Task[ItemT]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[ItemT]]:
        """Work on all tasks, in any order; a generator, and closing it stops the workers.

        A task that broke a worker comes back in several pieces, each with a name of its own; so may an item, as
        `Item.alone` cuts it. Every target comes back exactly once. Each worker has a step of its own, from the factory,
        and a copy of the spool of each branch.
        """


class Phase(StrEnum):
    """What a worker is busy with."""

    OPEN = "read"
    WORK = "worked on"
    KEEP = "kept"


Watch = Callable[[Phase, int], None]
"""Is told each phase as it starts, with the position in the batch of the item that is being opened (else 0)."""


@dataclass(slots=True)
class Batch(Generic[ItemT]):
    """Items that have been opened.

    Attributes:
        opened: Each with what there is of it now.
        errors: Those that are bad, and why.
        too_much: Those for which memory ran out, and what to say of them if it does so again when they are alone.
    """

    opened: list[tuple[ItemT, Any]] = field(default_factory=list)
    errors: list[tuple[ItemT, ClipError]] = field(default_factory=list)
    too_much: list[tuple[ItemT, OutOfMemory]] = field(default_factory=list)


def perform(
    step: Step[ItemT, Any, Any], spools: Mapping[str, Spool[Any]], task: Task[ItemT], watch: Watch
) -> Done[ItemT]:
    """Open, work on and keep one batch: what every worker does, wherever it lives."""
    return finish(step, spools, task, open_items(step, task.items, watch), watch)


def open_items(opener: Opener[ItemT, Any], items: Sequence[ItemT], watch: Watch) -> Batch[ItemT]:
    """Open the items of one batch."""
    batch: Batch[ItemT] = Batch()
    for position, item in enumerate(items):
        watch(Phase.OPEN, position)
        try:
            batch.opened.append((item, opener.open(item)))
        except ClipError as error:
            batch.errors.append((item, error))
        except MemoryError as error:
            batch.too_much.append((item, out_of_memory(Phase.OPEN, error)))
    return batch


def finish(
    step: Step[ItemT, Any, Any],
    spools: Mapping[str, Spool[Any]],
    task: Task[ItemT],
    batch: Batch[ItemT],
    watch: Watch,
) -> Done[ItemT]:
    """Work on and keep a batch that has been opened; uses it up."""
    outcomes = [outcome for item, error in batch.errors for outcome in _all_of(item, error)]
    if batch.opened:
        watch(Phase.WORK, 0)
        outcomes += _work(step, batch.opened, batch.too_much)
    batch.opened.clear()  # pictures take much room: what comes next needs it
    for position, item in enumerate(task.items):
        if any(item is each for each, _ in batch.too_much):
            for piece in item.alone():
                outcomes += _perform_alone(step, piece, position, watch)
    _refuse_silence(outcomes, task.items)
    rows: dict[str, list[Any]] = defaultdict(list)
    errors: list[tuple[Target, ClipError]] = []
    for outcome in outcomes:
        if isinstance(outcome.result, ClipError):
            errors.append((outcome.target, outcome.result))
        else:
            rows[outcome.target.branch].append(outcome.result)
    watch(Phase.KEEP, 0)
    for branch, finished in rows.items():
        spools[branch].keep(task.name, finished)
    return Done(task, {branch: len(finished) for branch, finished in rows.items()}, errors)


def _work(
    step: Step[ItemT, Any, Any], opened: Sequence[tuple[ItemT, Any]], too_much: list[tuple[ItemT, OutOfMemory]]
) -> list[Outcome[Any]]:
    """Work on all at once or, where memory is short, one by one; those that even so were too much are added to it."""
    try:
        return step.work(opened)
    except MemoryError:
        pass  # one of them may be too much, or all of them together
    outcomes: list[Outcome[Any]] = []
    for pair in opened:
        try:
            outcomes += step.work([pair])
        except MemoryError as error:
            too_much.append((pair[0], out_of_memory(Phase.WORK, error)))
    return outcomes


def _perform_alone(step: Step[ItemT, Any, Any], item: ItemT, position: int, watch: Watch) -> Sequence[Outcome[Any]]:
    """Open and work on an item while no other takes up memory: the last word on whether there is enough."""
    watch(Phase.OPEN, position)
    try:
        opened = step.open(item)
    except ClipError as error:
        return _all_of(item, error)
    except MemoryError as error:
        return _all_of(item, out_of_memory(Phase.OPEN, error))
    watch(Phase.WORK, 0)
    try:
        return step.work([(item, opened)])
    except MemoryError as error:
        return _all_of(item, out_of_memory(Phase.WORK, error))


def out_of_memory(phase: Phase, error: MemoryError) -> OutOfMemory:
    """What is said of a piece for which there was not enough memory although it was alone."""
    found = f" ({error})" if str(error) else ""
    return OutOfMemory(f"memory ran out while the clip alone was being {phase.value}{found}")


def _all_of(item: ItemT, error: ClipError) -> list[Outcome[Any]]:
    return [Outcome(target, error) for target in item.targets]


def _refuse_silence(outcomes: Sequence[Outcome[Any]], items: Sequence[ItemT]) -> None:
    """A target that a step says nothing about would be lost without a word."""
    missing = {target for item in items for target in item.targets} - {outcome.target for outcome in outcomes}
    if missing:
        raise RuntimeError(
            f"the step said nothing about {len(missing)} of its targets, such as {min(missing, key=str)}"
        )


class InProcess:
    """Runs everything in this very process: no isolation, for debugging and where processes may not be started."""

    def run(
        self, tasks: Iterable[Task[ItemT]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[ItemT]]:
        """Work on the tasks one after the other; see `Engine`."""
        step: Step[ItemT, Any, Any] | None = None
        try:
            for task in tasks:
                step = step or factory(0)
                yield perform(step, spools, task, unwatched)
        finally:
            if step is not None:
                step.close()


def unwatched(_phase: Phase, _position: int) -> None:
    """Ignore the phases of a batch: no other process would act on them."""
