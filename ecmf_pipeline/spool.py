"""Finished batches of a long loop, durable the moment they are done, until they are sealed into their permanent form.

A store wants few large parts, a crash must cost one small batch: so every batch stands in a file of its own here,
beside the store and outside of what DVC tracks, and a chunk of them becomes one part. What a killed run left is taken
up by the next one.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ecmf_pipeline.files import write_atomic


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
