"""The one long loop: plan -> read -> compute -> write.

Items are cut into chunks and chunks into batches, the same for any number of workers. A worker keeps each finished
batch durably at once, so a kill costs the batches in flight; when all of a chunk's batches are back, the main process
seals them into one permanent part. Progress, quarantine, the allowed share of bad clips and interruption are the
run's; who runs the workers is the engine's.
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
from ecmf_pipeline.core.errors import Interrupted
from ecmf_pipeline.runner.pool import LocalProcesses
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.runner.step import Done, Engine, InProcess, ItemT, PartWriter, StepFactory, Task

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2
_SECONDS_BETWEEN_TABLES = 2.0


class Interruption:
    """While entered, the first Ctrl-C or SIGTERM raises KeyboardInterrupt; later ones are answered with a line.

    Off the main thread nothing is changed: whoever runs us there handles signals.

    Attributes:
        asked: Whether a signal has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._held = 0
        self._settled = False
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
    def held(self) -> Iterator[None]:
        """A stretch of work that is finished first; an interruption comes at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self._raise_if_due()

    def settle(self) -> None:
        """From here on nothing is raised any more: the run is putting away what it has."""
        self._settled = True

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked or self._settled:
            # Straight to the descriptor: a handler may have broken into a write to `sys.stderr`.
            with suppress(OSError):
                os.write(_STDERR, b"\nstopping; what is complete is being made permanent, one moment\n")
        self.asked = True
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self.asked and not self._settled and not self._held:
            self._settled = True
            raise KeyboardInterrupt


@contextmanager
def hurried(hurry: Callable[[], None]) -> Iterator[None]:
    """While the block waits for something, a Ctrl-C or SIGTERM first ends that, then does what it did before.

    Args:
        hurry: Lets go of what is waited for; must need no lock that the block may hold.
    """
    previous: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        hurry()
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
    """What a run did, counted by branch.

    Attributes:
        done: Targets computed by this run.
        reused: Targets that an earlier run had computed.
        quarantined: Targets set aside, by earlier runs or this one.
        reasons: Quarantined targets by reason.
        transient: Targets that this run set aside for reasons that the next one may not find, by reason.
    """

    done: Counter[str] = field(default_factory=Counter)
    reused: Mapping[str, int] = field(default_factory=dict)
    quarantined: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    transient: Counter[str] = field(default_factory=Counter)

    def count(self, branch: str, quarantine: Quarantine) -> None:
        """Take over what a branch's quarantine table says."""
        self.quarantined[branch] = len(quarantine)
        self.reasons[branch] = quarantine.reasons()


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How the loop runs; none of it changes a number.

    Attributes:
        batch_size: Items worked on at once: what a kill costs at most, for each worker.
        part_size: Items whose rows are sealed together.
        max_quarantined: Share of all targets of a branch that may be bad before the run stops.
        workers: How many processes work; None is one for each core, 0 works in this process, without protection.
        clip_timeout: Seconds that one clip may take to be read, and again to be worked on.
        openers: How many further processes open items for the workers; 0: they do it themselves. Not with 0 workers.
        threads: Threads of each worker's numerical libraries.
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
    """Items that are sealed together: how many targets are still out, and the names under which rows were kept."""

    items: Sequence[ItemT]
    left: int
    kept: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


class Run(Generic[ItemT]):
    """One pass over the items that are not done yet.

    Args:
        factory: Builds the step, in each worker.
        writers: The open writer of each branch. Workers keep batches in its spool; here it makes parts of them.
        quarantines: The table of each branch.
        config: How the loop runs.
        report: Knows what is reused, and is told what is done.
        engine: Who runs the workers, if not what ``config.workers`` says.
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
        self._kept = 0
        self.report = report

    def __call__(self, items: Sequence[ItemT], description: str) -> RunReport:
        """Work on ``items`` and seal what is finished, also when the run is cut short.

        Raises:
            TooManyQuarantined: As soon as more than the allowed share of a branch is bad.
            Interrupted: On Ctrl-C or SIGTERM.
            Exception: What stopped the run; what then kept parts from being sealed is a note of it.
        """
        self._count(items)
        chunks = self._cut(items)
        try:
            with Interruption() as interruption:
                try:
                    self._loop(chunks, description, interruption)
                except BaseException as error:
                    # A crash or Ctrl-C loses the batches in flight and nothing before them.
                    interruption.settle()
                    if failure := self._end(chunks):
                        said = "".join(traceback.format_exception_only(failure)).strip()
                        error.add_note(f"Then, as what was complete was put away: {said}")
                        if isinstance(error, KeyboardInterrupt):
                            raise failure from None
                    raise
                interruption.settle()
                if failure := self._end(chunks):
                    raise failure
        except KeyboardInterrupt:
            raise Interrupted(f"{description}: interrupted") from None
        if interruption.asked:
            raise Interrupted(f"{description}: interrupted")
        return self.report

    def _loop(self, chunks: dict[int, _Chunk[ItemT]], description: str, interruption: Interruption) -> None:
        total = sum(chunk.left for chunk in chunks.values())
        tasks = list(self._tasks(chunks))
        spools = {branch: writer.spool for branch, writer in self._writers.items()}
        results = cast("Iterator[Done[ItemT]]", self._engine.run(tasks, self._factory, spools))
        with progress_bar(description, total, unit="target") as bar, closing(results) as finished:  # type: ignore[type-var]
            self._check_share()
            for done in finished:
                with interruption.held():
                    self._take(done, chunks)
                self._check_share()
                bar.set_postfix(
                    done=self._kept,
                    reused=sum(self.report.reused.values()),
                    quarantined=sum(len(quarantine) for quarantine in self._quarantines.values()),
                    refresh=False,
                )
                bar.update(_count_targets(done.task.items))

    def _count(self, items: Sequence[ItemT]) -> None:
        self._totals.update(target.branch for item in items for target in item.targets)
        for branch, quarantine in self._quarantines.items():
            self._totals[branch] += self.report.reused.get(branch, 0) + len(quarantine)

    def _cut(self, items: Sequence[ItemT]) -> dict[int, _Chunk[ItemT]]:
        size = self._config.part_size
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        return {number: _Chunk(part, _count_targets(part)) for number, part in enumerate(parts)}

    def _tasks(self, chunks: Mapping[int, _Chunk[ItemT]]) -> Iterator[Task[ItemT]]:
        size = self._config.batch_size
        for number, chunk in chunks.items():
            for index, start in enumerate(range(0, len(chunk.items), size)):
                yield Task(f"{number:06d}-{index:04d}", number, tuple(chunk.items[start : start + size]))

    def _take(self, done: Done[ItemT], chunks: dict[int, _Chunk[ItemT]]) -> None:
        for target, error in done.errors:
            self._quarantines[target.branch].add(target.clip_id, error.reason, str(error), target.digest)
            if error.is_transient:
                self.report.transient[error.reason] += 1
        chunk = chunks[done.task.chunk]
        for branch, rows in done.kept.items():
            chunk.kept[branch].append(done.task.name)
            self._kept += rows
        chunk.left -= _count_targets(done.task.items)  # not items: one that broke a worker comes back in pieces
        if chunk.left == 0:
            # Taken out first: what could not be sealed waits in the spool for the next run and is never sealed twice.
            del chunks[done.task.chunk]
            if failure := self._seal(done.task.chunk, chunk):
                raise failure
        for quarantine in self._quarantines.values():
            quarantine.write(least_seconds=_SECONDS_BETWEEN_TABLES)

    def _seal(self, number: int, chunk: _Chunk[ItemT]) -> Exception | None:
        """Seal what a chunk holds, each branch by itself, and return the first error."""
        first: Exception | None = None
        for branch, tasks in chunk.kept.items():
            clip_ids = [target.clip_id for item in chunk.items for target in item.targets if target.branch == branch]
            try:
                self.report.done[branch] += self._writers[branch].seal(number, sorted(tasks), clip_ids)
            except Exception as error:  # noqa: BLE001 - the caller raises it, when the others are sealed
                first = first or error
        return first

    def _end(self, chunks: dict[int, _Chunk[ItemT]]) -> Exception | None:
        """Put away all that there is, and return the first error: one part or table must not cost the others."""
        failures = [self._seal(number, chunk) for number, chunk in chunks.items()]
        for branch, quarantine in self._quarantines.items():
            try:
                quarantine.write()
            except Exception as error:  # noqa: BLE001 - the caller raises it
                failures.append(error)
            self.report.count(branch, quarantine)
        return next((failure for failure in failures if failure), None)

    def _check_share(self) -> None:
        for branch, quarantine in self._quarantines.items():
            quarantine.refuse_too_many(self._totals[branch], self._config.max_quarantined)


def _count_targets(items: Sequence[ItemT]) -> int:
    return sum(len(item.targets) for item in items)
