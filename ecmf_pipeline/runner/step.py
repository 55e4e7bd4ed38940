"""Interfaces of a long loop: items, steps that compute rows from them, and engines that run the steps.

A worker has one `Spool` for each branch and makes each finished batch durable at once. The main process holds the
`SpoolWriter` and its lock. It turns batches into their permanent form, including batches left by killed runs.
"""

from __future__ import annotations

import pickle
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

from ecmf_pipeline.core.errors import ClipError, EcmfError, OutOfMemory, StoreError, UnexpectedError
from ecmf_pipeline.core.files import exclusive_lock, flush_folder, write_atomic
from ecmf_pipeline.runner.machine import is_machine_failure, is_out_of_memory


@dataclass(frozen=True, slots=True)
class Target:
    """One result to compute for a clip, for example the features of one modality.

    Attributes:
        clip_id: The clip.
        branch: The table that the result goes to (a modality).
        digest: Digest of the input.
    """

    clip_id: str
    branch: str
    digest: str


class Item(Protocol):
    """An element of the loop: picklable, with all data that a worker needs about one clip."""

    @property
    def targets(self) -> Sequence[Target]:
        """The results to compute for the item."""

    def alone(self) -> Sequence[Self]:
        """Split the item into pieces that can fail independently; an indivisible item returns itself.

        Each target of the item is in exactly one piece.
        """


def extra_seconds(item: Item) -> float:
    """Return the seconds that an item may take in addition to ``clip_timeout``: its ``extra_seconds``, if any."""
    seconds: float = getattr(item, "extra_seconds", 0.0)
    return seconds


ItemT = TypeVar("ItemT", bound=Item)
Opened = TypeVar("Opened")
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Row]):
    """The result of one target: a row, or the reason for its absence."""

    target: Target
    result: Row | ClipError


class Opener(ABC, Generic[ItemT, Opened]):
    """The first half of a `Step`: it reads input and needs no model."""

    @abstractmethod
    def open(self, item: ItemT) -> Opened:
        """Read the input of one item.

        Raises:
            ClipError: If the input is bad; all targets of the item are quarantined.
            EcmfError: If no item is to blame, for example a `ModelError`; it ends the run.
            MemoryError: If memory runs out; the item is retried in pieces, after the other items have released theirs.
            Exception: Any other: the item is retried in pieces, and quarantined as `UnexpectedError`.
        """

    def close(self) -> None:
        """Release native objects and models."""


class Step(Opener[ItemT, Opened], Generic[ItemT, Opened, Row]):
    """The computation of a long loop; it runs in a worker."""

    @abstractmethod
    def work(self, batch: Sequence[tuple[ItemT, Opened]]) -> list[Outcome[Row]]:
        """Compute the targets of several opened items at once.

        Raises:
            EcmfError: If no item is to blame, for example a `ModelError`; it ends the run.
            Exception: Any other: each item is then computed alone. One that fails again is quarantined, after another
                try in pieces if memory ran out or if it can be divided.
        """


class StepFactory(Protocol):
    """A picklable factory that builds the step in the worker that runs it.

    With openers (`RunConfig.openers`) it also needs a method ``opener(number)``. That method runs in a separate process
    and returns an `Opener` that opens items like the step, without its models. Opened items are pickled.
    """

    def __call__(self, worker: int) -> Step[Any, Any, Any]:
        """Build the step and load its models.

        Args:
            worker: Number of the worker, 0 to N - 1; it can select a GPU, for example.
        """


@dataclass(frozen=True, slots=True)
class Spool(Generic[Row]):
    """The finished batches of one run: small and picklable, with a copy in each worker.

    Attributes:
        folder: Folder of the batch files, shared by all runs on the same store.
        pack: Converts the rows of a batch to bytes; picklable.
        run: Identifier of this run, in hex. It separates the batches of a worker that outlives its run from those of
            the next run.
    """

    folder: Path
    pack: Callable[[Sequence[Row]], bytes]
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def keep(self, task: str, rows: Sequence[Row]) -> None:
        """Write the rows of a finished task durably and atomically."""
        write_atomic(self._path(task), self.pack(rows))
        flush_folder(self.folder)

    def read(self, task: str) -> bytes | None:
        """Return the batch stored under a name; None if there is none."""
        try:
            return self._path(task).read_bytes()
        except FileNotFoundError:
            return None

    def drop(self, tasks: Iterable[str]) -> None:
        """Remove batches whose rows are stored permanently."""
        for task in tasks:
            self._path(task).unlink(missing_ok=True)

    def _path(self, task: str) -> Path:
        return self.folder / f"{self.run}.{task}.batch"


def leftover_batches(folder: Path) -> list[Path]:
    """Return the finished batches in the spool of a store that no run writes to, in task order."""
    return sorted(folder.glob("*.batch"))


class SpoolWriter(ABC, Generic[Row]):
    """The only writer of a folder; a context manager that holds the folder's lock.

    On entry it recovers the batches of killed runs. A plan made afterwards counts their rows as done.

    Args:
        spool: The spool of this run.
        lock: The lock file; None if the caller holds the lock.
        what: Name of the folder's content, for messages.

    Attributes:
        adopted: Number of rows recovered from killed runs.

    Raises:
        StoreBusy: On entry, if another run writes to the same folder.
    """

    def __init__(self, spool: Spool[Row], *, lock: Path | None, what: str) -> None:
        self.spool = spool
        self.adopted = 0
        self._lock = lock
        self._content = what
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            if self._lock is not None:
                exits.enter_context(exclusive_lock(self._lock, self._content))
            self._refresh()
            self._clear_unfinished()
            self.adopted = self._adopt(leftover_batches(self.spool.folder))
            self._start()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for folder in (self.spool.folder, self.spool.folder.parent):
            with suppress(OSError):  # not empty, or does not exist
                folder.rmdir()
        self._exits.close()

    def _refresh(self) -> None:
        """Reload changes that other runs made before this writer got the lock."""

    @abstractmethod
    def _adopt(self, leftovers: Sequence[Path]) -> int:
        """Store the finished batches of killed runs permanently, remove them, and return their number of rows."""

    def _start(self) -> None:
        """Finish the setup after recovery."""

    def _clear_unfinished(self) -> None:
        """Remove files that killed processes left half-written."""
        for pattern in ("part-*", ".*"):
            for path in self.spool.folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    @contextmanager
    def _kept(self, tasks: Sequence[str]) -> Iterator[list[bytes]]:
        """Yield the batches stored under some names, and remove them from the spool if the block succeeds.

        Raises:
            StoreError: If a batch that a worker reported no longer exists.
        """
        batches = {task: self.spool.read(task) for task in tasks}
        if lost := [task for task, payload in batches.items() if payload is None]:
            raise StoreError(
                f"{self.spool.folder}: finished batches disappeared during the run ({', '.join(lost[:3])})",
                "do not remove files during a run; run the same command again to compute them",
            )
        yield [payload for payload in batches.values() if payload is not None]
        self.spool.drop(tasks)


class PartWriter(SpoolWriter[Row]):
    """The only writer of a folder of numbered, immutable parts."""

    _base = 0

    @abstractmethod
    def seal(self, number: int, tasks: Sequence[str], clip_ids: Sequence[str]) -> int:
        """Write one permanent part from stored batches, atomically.

        Args:
            number: Index of the part within this run.
            tasks: Names of the stored batches.
            clip_ids: Order of the rows; clips without a stored row are skipped.

        Returns:
            Number of rows written.

        Raises:
            StoreError: If a stored batch no longer exists.
        """

    @abstractmethod
    def _next_number(self) -> int:
        """Return the number of the next part."""

    def _start(self) -> None:
        self._base = self._next_number()

    def _place(self, number: int | None) -> int:
        """Return the number of the ``number``-th part of this run, or the next free number."""
        return self._next_number() if number is None else self._base + number


@dataclass(frozen=True, slots=True)
class Task(Generic[ItemT]):
    """One batch.

    Attributes:
        name: Unique in the run and usable as a file name; names sort in item order.
        chunk: Index of the chunk that the batch belongs to.
        items: The items of the batch.
    """

    name: str
    chunk: int
    items: tuple[ItemT, ...]


@dataclass(frozen=True, slots=True)
class Done(Generic[ItemT]):
    """The result of one batch.

    Attributes:
        task: The batch.
        kept: Number of rows stored, by branch.
        errors: Targets without a row, each with the reason.
    """

    task: Task[ItemT]
    kept: Mapping[str, int]
    errors: Sequence[tuple[Target, ClipError]]


class Engine(Protocol):
    """The part of a run that executes tasks on workers."""

    def run(
        self, tasks: Iterable[Task[ItemT]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[ItemT]]:
        """Yield the result of each task, in any order; closing the generator stops the workers.

        A task that crashed a worker returns in several pieces, each with its own name. An item may also return in
        pieces (`Item.alone`). Each target returns exactly once. Each worker builds its own step from the factory and
        has a copy of the spool of each branch.
        """


class Phase(StrEnum):
    """The phase of a batch in a worker; the value is a participle for messages."""

    OPEN = "read"
    WORK = "processed"
    KEEP = "kept"


Watch = Callable[[Phase, int], None]
"""Callback invoked at the start of each phase, with the position in the batch of the item that is opened (else 0)."""


@dataclass(slots=True)
class Batch(Generic[ItemT]):
    """Opened items.

    Attributes:
        opened: Items, each with its opened input.
        errors: Items that failed, each with the reason.
        retries: Items to try again in pieces, while no other item is in memory, each with its first error.
    """

    opened: list[tuple[ItemT, Any]] = field(default_factory=list)
    errors: list[tuple[ItemT, ClipError]] = field(default_factory=list)
    retries: list[tuple[ItemT, ClipError]] = field(default_factory=list)

    def fail(self, item: ItemT, error: ClipError) -> None:
        """Add a failed item to ``retries`` if its pieces may succeed alone, otherwise to ``errors``."""
        divisible = isinstance(error, UnexpectedError) and len(item.alone()) > 1
        (self.retries if divisible or isinstance(error, OutOfMemory) else self.errors).append((item, error))


def run_task(
    step: Step[ItemT, Any, Any], spools: Mapping[str, Spool[Any]], task: Task[ItemT], watch: Watch
) -> Done[ItemT]:
    """Open, compute and store one batch."""
    return finish_batch(step, spools, task, open_items(step, task.items, watch), watch)


def open_items(opener: Opener[ItemT, Any], items: Sequence[ItemT], watch: Watch) -> Batch[ItemT]:
    """Open the items of one batch."""
    batch: Batch[ItemT] = Batch()
    for position, item in enumerate(items):
        watch(Phase.OPEN, position)
        try:
            batch.opened.append((item, opener.open(item)))
        except BaseException as error:  # noqa: BLE001 - libraries in Rust panic with a BaseException
            batch.fail(item, item_error(Phase.OPEN, error))
    return batch


def finish_batch(
    step: Step[ItemT, Any, Any],
    spools: Mapping[str, Spool[Any]],
    task: Task[ItemT],
    batch: Batch[ItemT],
    watch: Watch,
) -> Done[ItemT]:
    """Compute and store an opened batch; empties ``batch.opened``."""
    outcomes: list[Outcome[Any]] = []
    if batch.opened:
        watch(Phase.WORK, 0)
        outcomes += _compute(step, batch)
    batch.opened.clear()  # frees the memory of decoded frames before the retries below
    for item, error in batch.errors:
        outcomes += _fail_all_targets(item, error)
    for position, item in enumerate(task.items):
        if any(item is failed for failed, _ in batch.retries):
            for piece in item.alone():
                outcomes += _run_alone(step, piece, position, watch)
    outcomes += _missing_outcomes(outcomes, task.items)
    rows: dict[str, list[Outcome[Any]]] = defaultdict(list)
    errors: list[tuple[Target, ClipError]] = []
    for outcome in outcomes:
        if isinstance(outcome.result, ClipError):
            errors.append((outcome.target, outcome.result))
        else:
            rows[outcome.target.branch].append(outcome)
    watch(Phase.KEEP, 0)
    kept: dict[str, int] = {}
    for branch, finished in rows.items():
        unserialisable = _keep(spools[branch], task.name, finished)
        errors += unserialisable
        if len(unserialisable) < len(finished):
            kept[branch] = len(finished) - len(unserialisable)
    return Done(task, kept, [(target, picklable_error(error)) for target, error in errors])


def item_error(phase: Phase, error: BaseException) -> ClipError:
    """Return the reason for quarantining an item, from the exception that ended its phase.

    Raises:
        BaseException: The same exception, if no item is to blame: an `EcmfError` that is no `ClipError`, a failure of
            the machine, or an interruption.
    """
    if isinstance(error, ClipError):
        return error
    if isinstance(error, (EcmfError, KeyboardInterrupt, GeneratorExit)) or is_machine_failure(error):
        raise error
    return out_of_memory_error(phase, error) if is_out_of_memory(error) else UnexpectedError.of(error)


def picklable_error(error: ClipError) -> ClipError:
    """Return the error, or its description as `UnexpectedError` if it cannot be sent to another process."""
    try:
        is_picklable = type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:  # noqa: BLE001 - pickling can raise anything
        is_picklable = False
    return error if is_picklable else UnexpectedError.of(error)


def _compute(step: Step[ItemT, Any, Any], batch: Batch[ItemT]) -> list[Outcome[Any]]:
    """Compute all opened items at once; if that fails, one at a time, and record those that fail again."""
    opened = batch.opened
    try:
        return step.work(opened)
    except BaseException as error:  # noqa: BLE001 - caused by one item, or by all of them together
        first = item_error(Phase.WORK, error)
    if len(opened) == 1:
        batch.fail(opened[0][0], first)
        return []
    outcomes: list[Outcome[Any]] = []
    for pair in opened:
        try:
            outcomes += step.work([pair])
        except BaseException as error:  # noqa: BLE001 - as above
            batch.fail(pair[0], item_error(Phase.WORK, error))
    return outcomes


def _run_alone(step: Step[ItemT, Any, Any], item: ItemT, position: int, watch: Watch) -> Sequence[Outcome[Any]]:
    """Open and compute an item while no other is in memory; report the final result."""
    phase = Phase.OPEN
    try:
        watch(phase, position)
        opened = step.open(item)
        phase = Phase.WORK
        watch(phase, 0)
        return step.work([(item, opened)])
    except BaseException as error:  # noqa: BLE001 - as above
        return _fail_all_targets(item, item_error(phase, error))


def _keep(spool: Spool[Any], task: str, finished: Sequence[Outcome[Any]]) -> list[tuple[Target, ClipError]]:
    """Store the rows of a branch, and return the targets whose row cannot be serialised."""
    try:
        spool.keep(task, [outcome.result for outcome in finished])
    except (OSError, MemoryError, EcmfError):  # the disk, or the store
        raise
    except Exception:
        good, errors = [], []
        for outcome in finished:
            try:
                spool.pack([outcome.result])
            except Exception as error:  # noqa: BLE001 - serialising can raise anything
                errors.append((outcome.target, item_error(Phase.KEEP, error)))
            else:
                good.append(outcome.result)
        if not errors:
            raise
        if good:
            spool.keep(task, good)
        return errors
    return []


def out_of_memory_error(phase: Phase, error: BaseException) -> OutOfMemory:
    """Return the error of a clip that ran out of memory while it was processed alone."""
    detail = str(error).partition("\n")[0].strip()
    return OutOfMemory(f"out of memory while the clip was being {phase.value} alone{f' ({detail})' if detail else ''}")


def _fail_all_targets(item: ItemT, error: ClipError) -> list[Outcome[Any]]:
    return [Outcome(target, error) for target in item.targets]


def _missing_outcomes(outcomes: Sequence[Outcome[Any]], items: Sequence[ItemT]) -> list[Outcome[Any]]:
    """Return an error for each target without an outcome, which would otherwise be lost silently."""
    returned = {outcome.target for outcome in outcomes}
    missing = [target for item in items for target in item.targets if target not in returned]
    return [Outcome(target, UnexpectedError("the step returned no outcome for the clip")) for target in missing]


class InProcess:
    """An engine that runs all tasks in this process, without crash protection.

    It serves for debugging, and for systems that cannot start processes.
    """

    def run(
        self, tasks: Iterable[Task[ItemT]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[ItemT]]:
        """Run the tasks in order; see `Engine`."""
        step: Step[ItemT, Any, Any] | None = None
        try:
            for task in tasks:
                step = step or factory(0)
                yield run_task(step, spools, task, ignore_phase)
        finally:
            if step is not None:
                step.close()


def ignore_phase(_phase: Phase, _position: int) -> None:
    """Ignore the phases of a batch: no other process watches them."""
