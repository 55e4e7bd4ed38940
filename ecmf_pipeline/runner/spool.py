"""Write parts from many workers: each keeps its finished batches in a spool, one writer makes parts of them.

A worker has a `Spool` of each branch and makes every finished batch durable at once. The main process has the
`SpoolWriter`, the only one by its lock, which turns batches into their permanent form and takes up what killed runs
have left.
"""

from __future__ import annotations

import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self, TypeVar

from ecmf_pipeline.core.errors import StoreError
from ecmf_pipeline.core.files import exclusive, flush_folder, write_atomic

RowT = TypeVar("RowT")


@dataclass(frozen=True, slots=True)
class Spool(Generic[RowT]):
    """The finished batches of one run. Small and picklable: every worker has a copy.

    Attributes:
        folder: Where the files are; shared by all runs on the same store.
        run: This run's name, in hex. A worker that outlives its run for a moment can never mix with the next run's.
        pack: Turns the rows of a batch into bytes; picklable.
    """

    folder: Path
    run: str
    pack: Callable[[Sequence[RowT]], bytes]

    @classmethod
    def start(cls, folder: Path, pack: Callable[[Sequence[RowT]], bytes]) -> Spool[RowT]:
        """Make the spool of a new run."""
        return cls(folder, uuid.uuid4().hex[:12], pack)

    def keep(self, task: str, rows: Sequence[RowT]) -> None:
        """Make a finished batch durable, whole or not at all: it is when this returns.

        Args:
            task: The batch's name, a plain file name; names sort in the order of the work.
            rows: What was computed.
        """
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


class SpoolWriter(ABC, Generic[RowT]):
    """The one writer of a folder; a context manager that holds its lock.

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

    def __init__(self, spool: Spool[RowT], *, lock: Path, what: str) -> None:
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


class PartWriter(SpoolWriter[RowT]):
    """The one writer of a folder of numbered, immutable parts."""

    def __init__(self, spool: Spool[RowT], *, lock: Path, what: str) -> None:
        super().__init__(spool, lock=lock, what=what)
        self._base = 0

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
