"""The one long loop: plan -> work -> commit.

A step says how to open one clip (which may fail: the clip is quarantined), how to work on several at once, and how to
commit what is done. The runner owns batching, progress, quarantine, the allowed share of bad clips and interruption.
Who runs the work is the runner's business too: today this process; others fit behind the same methods of a step.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Generic, TypeVar

from ecmf_pipeline.errors import ClipError, Interrupted
from ecmf_pipeline.progress import progress_bar
from ecmf_pipeline.quarantine import Quarantine

Item = TypeVar("Item")
Opened = TypeVar("Opened")
Row = TypeVar("Row")


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


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Row]):
    """What became of one target: a row, or the reason why there is none."""

    target: Target
    result: Row | ClipError


class Step(ABC, Generic[Item, Opened, Row]):
    """What a long loop does."""

    @abstractmethod
    def targets(self, item: Item) -> Sequence[Target]:
        """What is to be computed for one item."""

    @abstractmethod
    def open(self, item: Item) -> Opened:
        """Read one item's input.

        Raises:
            ClipError: When the input is bad: all the item's targets are quarantined.
        """

    @abstractmethod
    def work(self, batch: Sequence[tuple[Item, Opened]]) -> list[Outcome[Row]]:
        """Compute the targets of several opened items at once."""

    @abstractmethod
    def commit(self, branch: str, rows: Sequence[Row]) -> None:
        """Make the finished rows of one branch permanent, all or none."""


@dataclass
class RunReport:
    """What a run did, counted by branch.

    Attributes:
        done: Targets computed by this run.
        reused: Targets that an earlier run had computed.
        quarantined: Targets set aside, by earlier runs or this one.
        reasons: Quarantined targets by reason.
    """

    done: Counter[str] = field(default_factory=Counter)
    reused: Mapping[str, int] = field(default_factory=dict)
    quarantined: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)

    def count(self, branch: str, quarantine: Quarantine) -> None:
        """Take over what a branch's quarantine table says."""
        self.quarantined[branch] = len(quarantine)
        self.reasons[branch] = quarantine.reasons()


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How the loop runs; none of it changes a number.

    Attributes:
        batch_size: Items worked on at once.
        part_size: Rows committed at once: what a power cut costs at most.
        max_quarantined: Share of all targets of a branch that may be bad before the run stops.
    """

    batch_size: int
    part_size: int
    max_quarantined: float


class Run(Generic[Item, Opened, Row]):
    """One pass over the items that are not done yet."""

    def __init__(
        self,
        step: Step[Item, Opened, Row],
        quarantines: Mapping[str, Quarantine],
        config: RunConfig,
        report: RunReport,
    ) -> None:
        self._step = step
        self._quarantines = quarantines
        self._config = config
        self._waiting: dict[str, list[Row]] = {branch: [] for branch in quarantines}
        self._totals: Counter[str] = Counter()
        self.report = report

    def __call__(self, items: Sequence[Item], description: str) -> RunReport:
        """Work on ``items`` and commit what is finished, also when the run is cut short.

        Raises:
            TooManyQuarantined: As soon as more than the allowed share of a branch is bad.
            Interrupted: On Ctrl-C or SIGTERM.
        """
        self._count(items)
        try:
            with _interruptible(), progress_bar(description, len(items)) as bar:
                self._check_share()
                for start in range(0, len(items), self._config.batch_size):
                    batch = items[start : start + self._config.batch_size]
                    for outcome in self._work(batch):
                        self._take(outcome)
                    self._commit(least=self._config.part_size)
                    self._check_share()
                    bar.set_postfix(
                        done=self.report.done.total(),
                        reused=sum(self.report.reused.values()),
                        quarantined=sum(len(quarantine) for quarantine in self._quarantines.values()),
                    )
                    bar.update(len(batch))
        except KeyboardInterrupt:
            raise Interrupted(f"{description}: interrupted") from None
        finally:
            # A crash or Ctrl-C loses the batch in flight and nothing before it.
            self._commit(least=1)
            for branch, quarantine in self._quarantines.items():
                self.report.count(branch, quarantine)
        return self.report

    def _count(self, items: Sequence[Item]) -> None:
        self._totals.update({branch: self.report.reused.get(branch, 0) for branch in self._quarantines})
        for item in items:
            self._totals.update(target.branch for target in self._step.targets(item))
        for branch, quarantine in self._quarantines.items():
            self._totals[branch] += len(quarantine)

    def _work(self, batch: Sequence[Item]) -> Iterator[Outcome[Row]]:
        opened: list[tuple[Item, Opened]] = []
        for item in batch:
            try:
                opened.append((item, self._step.open(item)))
            except ClipError as error:
                yield from (Outcome(target, error) for target in self._step.targets(item))
        if opened:
            yield from self._step.work(opened)

    def _take(self, outcome: Outcome[Row]) -> None:
        target = outcome.target
        if isinstance(outcome.result, ClipError):
            error = outcome.result
            self._quarantines[target.branch].add(target.clip_id, error.reason, str(error), target.digest)
        else:
            self._waiting[target.branch].append(outcome.result)

    def _commit(self, *, least: int) -> None:
        for branch, rows in self._waiting.items():
            if len(rows) >= least:
                self._step.commit(branch, rows)
                self.report.done[branch] += len(rows)
                self._waiting[branch] = []
            self._quarantines[branch].write()

    def _check_share(self) -> None:
        for branch, quarantine in self._quarantines.items():
            quarantine.refuse_too_many(self._totals[branch], self._config.max_quarantined)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn SIGTERM into the same orderly end as Ctrl-C."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
