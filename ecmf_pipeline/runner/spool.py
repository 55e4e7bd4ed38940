"""What every writer of immutable parts shares: the lock, the spool, and what killed runs have left."""

from __future__ import annotations

import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ecmf_pipeline.core.errors import StoreError
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.core.locks import exclusive


@dataclass(frozen=True, slots=True)
class Spool:
    """The finished batches of one run. Small and picklable: every worker has a copy.

    Attributes:
        folder: Where the files stand; shared by all runs on the same store.
        run: This run's name, in hex. A worker that outlives its run for a moment can never mix with the next run's.
    """

    folder: Path
    run: str

    @classmethod
    def start(cls, folder: Path) -> Spool:
        """A spool for a new run."""
        return cls(folder, uuid.uuid4().hex[:12])

    def keep(self, task: str, payload: bytes) -> None:
        """Make a finished batch durable: whole, or not there at all.

        Args:
            task: The batch's name, a plain file name; names sort in the order of the work.
            payload: What was computed.
        """
        write_atomic(self._path(task), payload)
        flush_folder(self.folder)

    def read(self, task: str) -> bytes | None:
        """What was kept under a name; None when nothing was."""
        try:
            return self._path(task).read_bytes()
        except FileNotFoundError:
            return None

    def drop(self, tasks: Iterable[str]) -> None:
        """Remove batches that have found their permanent form."""
        for task in tasks:
            self._path(task).unlink(missing_ok=True)

    def leftovers(self) -> list[Path]:
        """The finished batches of other runs, in the order of their work. Who asks must be the only writer."""
        return sorted(path for path in self.folder.glob("*.batch") if not path.name.startswith(f"{self.run}."))

    def clear_unfinished(self) -> None:
        """Remove what killed processes were writing here. Who asks must be the only writer."""
        for pattern in ("part-*", ".*"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Remove the folder, and the one it stands in, where nothing waits in them."""
        for folder in (self.folder, self.folder.parent):
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()

    def _path(self, task: str) -> Path:
        return self.folder / f"{self.run}.{task}.batch"


def flush_folder(folder: Path) -> None:
    """Hand a folder's list of names to the disk: without it, a power cut may undo what was renamed into it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
