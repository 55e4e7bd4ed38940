"""Run a long loop: plan, read, compute, write.

Items are split into chunks, and chunks into batches, independently of the number of workers. A worker stores each
finished batch durably at once, so a kill loses only the batches in flight. The main process seals the batches of a
complete chunk into one permanent part. `Run` handles progress, quarantine, the allowed share of bad clips and
interruption; an `Engine` runs the workers.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Generic, cast

from ecmf_pipeline.core.console import progress_bar
from ecmf_pipeline.core.errors import EcmfError, Interrupted, UnexpectedError
from ecmf_pipeline.runner.pool import LocalProcesses
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.runner.step import Done, Engine, InProcess, ItemT, PartWriter, StepFactory, Task

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2
_TABLE_WRITE_INTERVAL = 2.0
_CLIPS_WITHOUT_SUCCESS = 32
"""Number of clips with the same unexpected error, and none that succeeded, after which the program is to blame."""


class Interruption:
    """A context in which the first Ctrl-C or SIGTERM raises KeyboardInterrupt; later signals print a line.

    Outside the main thread it has no effect, because Python handles signals only in the main thread.

    Attributes:
        requested: Whether a signal arrived.
    """

    def __init__(self) -> None:
        self.requested = False
        self._n_deferrals = 0
        self._disabled = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        with suppress(ValueError):  # not the main thread
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Delay an interruption until the end of the block."""
        self._n_deferrals += 1
        try:
            yield
        finally:
            self._n_deferrals -= 1
        self._raise_if_requested()

    def disable(self) -> None:
        """Raise no more interruptions: the run is storing its results."""
        self._disabled = True

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested or self._disabled:
            # The signal may have interrupted a write to `sys.stderr`, which is not reentrant.
            with suppress(OSError):
                os.write(_STDERR, b"\nstopping: storing completed work\n")
        self.requested = True
        self._raise_if_requested()

    def _raise_if_requested(self) -> None:
        if self.requested and not self._disabled and not self._n_deferrals:
            self._disabled = True
            raise KeyboardInterrupt


@contextmanager
def release_on_signal(release: Callable[[], None]) -> Iterator[None]:
    """Call ``release`` on Ctrl-C or SIGTERM within the block, then the previous signal handler.

    Args:
        release: Ends the blocking call of the block; must not need a lock that the block may hold.
    """
    previous: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        release()
        if callable(before := previous[signal.Signals(number)]):
            before(number, frame)

    with suppress(ValueError):  # not the main thread
        for number in _SIGNALS:
            previous[number] = signal.getsignal(number)
            signal.signal(number, handle)
    try:
        yield
    finally:
        with suppress(ValueError):
            for number, before in previous.items():
                signal.signal(number, signal.SIG_DFL if before is None else before)


@dataclass
class RunReport:
    """Counts of a run, by branch.

    Attributes:
        done: Targets computed by this run.
        reused: Targets computed by earlier runs.
        quarantined: Targets quarantined by this run or earlier ones.
        reasons: Quarantined targets by reason.
        transient: Targets that this run quarantined for transient reasons, by reason.
    """

    done: Counter[str] = field(default_factory=Counter)
    reused: Mapping[str, int] = field(default_factory=dict)
    quarantined: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    transient: Counter[str] = field(default_factory=Counter)

    def count(self, branch: str, quarantine: Quarantine) -> None:
        """Copy the counts of a branch's quarantine table."""
        self.quarantined[branch] = len(quarantine)
        self.reasons[branch] = quarantine.reasons()


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Settings of the loop; none of them changes a computed number.

    Attributes:
        batch_size: Items computed at once; a kill loses at most one batch for each worker.
        part_size: Items whose rows are sealed together.
        max_quarantined: Share of all targets of a branch that may be bad before the run stops.
        workers: Number of worker processes; None: one for each core; 0: run in this process, without crash protection.
        clip_timeout: Seconds that one clip may take to be read, and again to be computed.
        openers: Number of additional processes that open items for the workers; 0: the workers open them. Needs
            workers.
        threads: Threads of the numerical libraries of each worker.
    """

    batch_size: int
    part_size: int
    max_quarantined: float
    workers: int | None = None
    clip_timeout: float = 300.0
    openers: int = 0
    threads: int = 1


@dataclass(slots=True)
class _Chunk(Generic[ItemT]):
    """Items that are sealed together: the number of unfinished targets, and the names of the stored batches."""

    items: Sequence[ItemT]
    n_unfinished: int
    kept: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


class Run(Generic[ItemT]):
    """One pass over the items that are not done yet.

    An unexpected exception of one item quarantines it, and the run continues. A program that is broken, for example by
    an incompatible library, must not quarantine a whole corpus this way: if the first 32 clips of a branch fail with
    the same unexpected error and none succeeds, the run stops. These clips stay quarantined, so that the next run tries
    others if the clips were to blame after all; another version of the program tries them again.

    Args:
        factory: Builds the step in each worker.
        writers: The open writer of each branch. Workers store batches in its spool; this process seals them into parts.
        quarantines: The quarantine table of each branch.
        config: How the loop runs.
        report: Holds the reused targets; this run adds its own counts.
        engine: Runs the workers; None: as ``config.workers`` selects.
    """

    def __init__(
        self,
        factory: StepFactory,
        writers: Mapping[str, PartWriter[Any]],
        quarantines: Mapping[str, Quarantine],
        config: RunConfig,
        report: RunReport,
        engine: Engine | None = None,
    ) -> None:
        self._factory = factory
        self._writers = writers
        self._quarantines = quarantines
        self._config = config
        self._engine = engine or (
            LocalProcesses(config.workers, config.clip_timeout, config.threads, config.openers)
            if config.workers != 0
            else InProcess()
        )
        self._totals: Counter[str] = Counter()
        self._unexpected: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._successful: set[str] = set()
        self._rows_stored = 0
        self.report = report

    def __call__(self, items: Sequence[ItemT], description: str) -> RunReport:
        """Process ``items`` and seal all finished batches, also if the run ends early.

        Raises:
            TooManyQuarantined: As soon as more than the allowed share of a branch is bad.
            EcmfError: If the first clips of a branch all fail with the same unexpected error.
            Interrupted: On Ctrl-C or SIGTERM.
            Exception: The cause of the end of the run; a subsequent failure to seal parts is attached as a note.
        """
        self._count_totals(items)
        chunks = self._make_chunks(items)
        try:
            with Interruption() as interruption:
                try:
                    self._loop(chunks, description, interruption)
                except BaseException as error:
                    # A crash or Ctrl-C loses only the batches in flight.
                    interruption.disable()
                    if failure := self._store_all(chunks):
                        text = "".join(traceback.format_exception_only(failure)).strip()
                        error.add_note(f"Storing completed work then failed: {text}")
                        if isinstance(error, KeyboardInterrupt):
                            raise failure from None
                    raise
                interruption.disable()
                if failure := self._store_all(chunks):
                    raise failure
        except KeyboardInterrupt:
            raise Interrupted(f"{description}: interrupted") from None
        if interruption.requested:
            raise Interrupted(f"{description}: interrupted")
        return self.report

    def _loop(self, chunks: dict[int, _Chunk[ItemT]], description: str, interruption: Interruption) -> None:
        total = sum(chunk.n_unfinished for chunk in chunks.values())
        tasks = list(self._make_tasks(chunks))
        spools = {branch: writer.spool for branch, writer in self._writers.items()}
        results = cast("Iterator[Done[ItemT]]", self._engine.run(tasks, self._factory, spools))
        with progress_bar(description, total, unit="target") as bar, closing(results) as finished:  # type: ignore[type-var]
            self._check_share()
            for done in finished:
                with interruption.deferred():
                    self._record(done, chunks)
                self._check_program(done)
                self._check_share()
                bar.set_postfix(
                    done=self._rows_stored,
                    reused=sum(self.report.reused.values()),
                    quarantined=sum(len(quarantine) for quarantine in self._quarantines.values()),
                    refresh=False,
                )
                bar.update(_count_targets(done.task.items))

    def _count_totals(self, items: Sequence[ItemT]) -> None:
        self._totals.update(target.branch for item in items for target in item.targets)
        for branch, quarantine in self._quarantines.items():
            self._totals[branch] += self.report.reused.get(branch, 0) + len(quarantine)

    def _make_chunks(self, items: Sequence[ItemT]) -> dict[int, _Chunk[ItemT]]:
        size = self._config.part_size
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        return {number: _Chunk(part, _count_targets(part)) for number, part in enumerate(parts)}

    def _make_tasks(self, chunks: Mapping[int, _Chunk[ItemT]]) -> Iterator[Task[ItemT]]:
        size = self._config.batch_size
        for number, chunk in chunks.items():
            for index, start in enumerate(range(0, len(chunk.items), size)):
                yield Task(f"{number:06d}-{index:04d}", number, tuple(chunk.items[start : start + size]))

    def _record(self, done: Done[ItemT], chunks: dict[int, _Chunk[ItemT]]) -> None:
        for target, error in done.errors:
            self._quarantines[target.branch].add(
                target.clip_id, error.reason, error.message, target.digest, error.limit
            )
            if error.is_transient:
                self.report.transient[error.reason] += 1
        chunk = chunks[done.task.chunk]
        for branch, rows in done.kept.items():
            chunk.kept[branch].append(done.task.name)
            self._rows_stored += rows
        chunk.n_unfinished -= _count_targets(done.task.items)  # targets, because an item may return in pieces
        if chunk.n_unfinished == 0:
            # Removed first, to seal no batch twice; the next run recovers batches that could not be sealed.
            del chunks[done.task.chunk]
            if failure := self._seal(done.task.chunk, chunk):
                raise failure
        for quarantine in self._quarantines.values():
            quarantine.write(min_interval=_TABLE_WRITE_INTERVAL)

    def _seal(self, number: int, chunk: _Chunk[ItemT]) -> Exception | None:
        """Seal the batches of a chunk, each branch independently, and return the first error."""
        first: Exception | None = None
        for branch, tasks in chunk.kept.items():
            clip_ids = [target.clip_id for item in chunk.items for target in item.targets if target.branch == branch]
            try:
                self.report.done[branch] += self._writers[branch].seal(number, sorted(tasks), clip_ids)
            except Exception as error:  # noqa: BLE001 - the caller raises it after sealing the other branches
                first = first or error
        return first

    def _store_all(self, chunks: dict[int, _Chunk[ItemT]]) -> Exception | None:
        """Seal all chunks, write all tables, and return the first error; one failure does not affect the others."""
        failures = [self._seal(number, chunk) for number, chunk in chunks.items()]
        for branch, quarantine in self._quarantines.items():
            try:
                quarantine.write()
            except Exception as error:  # noqa: BLE001 - the caller raises it
                failures.append(error)
            self.report.count(branch, quarantine)
        return next((failure for failure in failures if failure), None)

    def _check_program(self, done: Done[ItemT]) -> None:
        """Raise if the first clips of a branch all failed with the same unexpected error."""
        self._successful.update(branch for branch, rows in done.kept.items() if rows)
        for target, error in done.errors:
            if not isinstance(error, UnexpectedError) or target.branch in self._successful:
                continue
            failed = self._unexpected[target.branch, error.cause]
            failed.add(target.clip_id)
            if len(failed) >= _CLIPS_WITHOUT_SUCCESS:
                stop = EcmfError(
                    f"{self._quarantines[target.branch].name}: the first {len(failed)} clips failed with the same "
                    f"unexpected error: {error.message}",
                    "probably not the clips but the program or an installed package is broken; after the repair, retry "
                    "the clips with --retry-quarantined",
                )
                stop.add_note(error.trace)
                raise stop

    def _check_share(self) -> None:
        for branch, quarantine in self._quarantines.items():
            quarantine.check_share(self._totals[branch], self._config.max_quarantined)


def _count_targets(items: Sequence[ItemT]) -> int:
    return sum(len(item.targets) for item in items)
