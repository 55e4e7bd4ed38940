"""What a long loop is told: the items, the step that works on them, and who keeps and seals what comes out.

A step says how to open one item (which may fail: its targets are quarantined) and how to work on several at once. It
lives in a worker, which is a process of its own as a rule: factories, items, keepers and rows must be picklable. Where
workers are few and dear (one a graphics card), openers, processes without models, may open items for them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

from ecmf_pipeline.errors import ClipError


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
RowT_contra = TypeVar("RowT_contra", contravariant=True)


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
    """Builds the step in the worker that runs it; picklable."""

    def __call__(self, worker: int) -> Step[Any, Any, Any]:
        """Build the step and load its models.

        Args:
            worker: Number of the worker, 0 to N - 1; picks a graphics card, say.
        """


@runtime_checkable
class StagedFactory(StepFactory, Protocol):
    """One that also builds openers, each in a process of its own; what they open is pickled and goes to the workers."""

    def opener(self, number: int) -> Opener[Any, Any]:
        """Build what opens items as the step does, without its models.

        Args:
            number: Number of the opener, 0 to N - 1.
        """


class Keeper(Protocol[RowT_contra]):
    """Keeps finished batches; picklable, used in the workers."""

    def keep(self, task: str, branch: str, rows: Sequence[RowT_contra]) -> None:
        """Make one branch's rows of one batch durable: they are when this returns."""


class Sealer(Protocol):
    """Gives what the workers kept its permanent form; used in the main process."""

    def seal(self, branch: str, number: int, tasks: Sequence[str], clip_ids: Sequence[str]) -> int:
        """Seal what was kept under some tasks' names, all or none.

        Args:
            branch: The table that the rows go to.
            number: Index of the chunk in this run.
            tasks: The names.
            clip_ids: The order of the rows; clips that have none are skipped.

        Returns:
            How many rows were sealed.
        """
