"""What every writer of immutable parts shares: the lock, the spool, and what killed runs have left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from ecmf_pipeline.errors import StoreError
from ecmf_pipeline.locks import exclusive
from ecmf_pipeline.spool import Spool


class SpooledWriter(ABC):
    """The one writer of a folder of parts; a context manager that holds its lock.

    On entering it takes up what killed runs have left, so that a plan made afterwards counts it as done.

    Args:
        spool: Where this run's workers keep their finished batches.
        lock: The lock file.
        what: What is written to, for messages.

    Attributes:
        spool: The same.
        adopted: How many rows of killed runs were taken up.

    Raises:
        StoreBusy: On entering, when another run writes to the same.
    """

    def __init__(self, spool: Spool, *, lock: Path, what: str) -> None:
        self.spool = spool
        self.adopted = 0
        self._lock = lock
        self._what = what
        self._exits = ExitStack()
        self._base = 0

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            exits.enter_context(exclusive(self._lock, self._what))
            self._look_around()
            self.spool.clear_unfinished()
            self.adopted = self._adopt(self.spool.leftovers())
            self._base = self._next_number()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.spool.leave()
        self._exits.close()

    @abstractmethod
    def _look_around(self) -> None:
        """See what stands there, now that nobody else writes to it."""

    @abstractmethod
    def _adopt(self, leftovers: Sequence[Path]) -> int:
        """Add the finished batches of dead runs, remove them, and say how many rows they were."""

    @abstractmethod
    def _next_number(self) -> int:
        """The number of the next part."""

    def _place(self, number: int | None) -> int:
        """A part's place in the order of all: the next free one, or the ``number``-th of this run."""
        return self._next_number() if number is None else self._base + number

    @contextmanager
    def _kept(self, tasks: Sequence[str]) -> Iterator[list[bytes]]:
        """What workers kept under some names; it leaves the spool when the block has given it its permanent form.

        Raises:
            StoreError: When some of it is gone: what a worker has reported as kept must never be missed in silence.
        """
        batches = {task: self.spool.read(task) for task in tasks}
        if lost := [task for task, payload in batches.items() if payload is None]:
            raise StoreError(
                f"{self.spool.folder}: finished batches are gone ({', '.join(lost[:3])})",
                "something else removed them while the run went on; run the same command again to compute them",
            )
        yield [payload for payload in batches.values() if payload is not None]
        self.spool.drop(tasks)
