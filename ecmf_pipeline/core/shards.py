"""Shards: parts of a stage's clips that jobs of a scheduler process independently, with nothing shared but files.

Each shard writes only to a folder of its own, beside the stage's results. The next run without a shard merges these
folders. The shards of one number ``n`` are disjoint. Runs with different ``n`` may compute a clip twice if they run at
the same time; the merge stores it once.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ecmf_pipeline.core.clips import Clip, Clips
from ecmf_pipeline.core.errors import InputError, StoreBusy
from ecmf_pipeline.core.files import exclusive_lock

SHARDS = ".shards"
"""Name of the folder of all shards of a stage."""
BLOCK_SECONDS = 600.0
"""Parts of a recording that start in the same block of this length are in one shard: they share decoded sound."""
_FORM = re.compile(r"(\d{1,6})/(\d{1,6})")
_FOLDER = re.compile(r"\d+-of-\d+")
_START_LOCK = ".start.lock"
_MAX_WAIT, _POLL = 600.0, 0.05  # seconds


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` disjoint parts of all clips or questions.

    Attributes:
        number: Number of the shard, from 1 to ``count``.
        count: Number of shards.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse ``NUMBER/COUNT``, such as ``1/8``.

        Raises:
            InputError: If the text has another form, or the number is not from 1 to the count.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise InputError(f"--shard {text!r} is not of the form NUMBER/COUNT", "give for example --shard 1/8")
        shard = cls(*map(int, match.groups()))
        if not 1 <= shard.number <= shard.count:
            raise InputError(
                f"--shard {text}: the number is not from 1 to {shard.count}",
                f"give --shard 1/{max(1, shard.count)} to --shard {max(1, shard.count)}/{max(1, shard.count)}",
            )
        return shard

    @property
    def name(self) -> str:
        """Name of the folder of the shard."""
        return f"{self.number}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, key: str) -> bool:
        """Return whether something with this key belongs to the shard; the answer depends on nothing else."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8]) % self.count == self.number - 1

    def has_clip(self, clip: Clip) -> bool:
        """Return whether a clip belongs to the shard, by its id; parts of a recording by file and time."""
        return self.has(block_key(clip.path, clip.start) if clip.end else clip.clip_id)

    def clips_of(self, clips: Clips) -> Clips:
        """Return the clips that belong to the shard; see `has_clip`."""
        import numpy as np  # takes 0.1 s, and the command line imports this module

        is_part = clips.column("end") > 0
        names = np.where(is_part, clips.column("path"), clips.column("clip_id")).tolist()
        starts = clips.column("start").tolist()
        keys = (
            block_key(name, start) if part else name
            for name, start, part in zip(names, starts, is_part.tolist(), strict=True)
        )
        return clips.where(np.fromiter(map(self.has, keys), np.bool_, len(clips)))


def block_key(name: str, start: float) -> str:
    """Return the key of a part of a recording: its file, and the block of time in which it starts."""
    return f"{name} {int(start // BLOCK_SECONDS)}"


def shard_folders(base: Path) -> list[Path]:
    """Return the folders of all shards below ``base``, sorted by name."""
    try:
        return sorted(path for path in base.iterdir() if _FOLDER.fullmatch(path.name))
    except FileNotFoundError:
        return []


@contextmanager
def starting(base: Path) -> Iterator[None]:
    """Hold the lock under which shards start and are merged; wait for other starts, which take seconds.

    Args:
        base: The folder of all shards of a stage.

    Raises:
        StoreBusy: If the lock is held for more than ten minutes.
    """
    deadline = time.monotonic() + _MAX_WAIT
    with ExitStack() as exits:
        while True:
            try:
                exits.enter_context(exclusive_lock(base / _START_LOCK, f"the shards in {base}"))
                break
            except (StoreBusy, FileNotFoundError):  # a merge removes the folder if it is empty
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL)
        yield


def remove_if_empty(base: Path) -> None:
    """Remove the folder of all shards if none is left."""
    if base.is_dir() and {path.name for path in base.iterdir()} <= {_START_LOCK}:
        (base / _START_LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # a shard has started
            base.rmdir()
