"""Where the rows of each clip stand in a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, repeat

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.store.parts import PartAttributes

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be read of one part.

    Attributes:
        part: Its name.
        positions: Places in what was asked for, (n,), in the order in which their rows stand in the part.
        starts: First row of each, (n,).
        lengths: Rows of each, (n,).
    """

    part: str
    positions: Numbers
    starts: Numbers
    lengths: Numbers


@dataclass
class Table:
    """All entries of all parts. An entry is a number: the how-manieth of them it is.

    Columns of plain numbers and words, for 132,000 clips must be looked up in a fraction of a second.

    Attributes:
        parts: Names of the parts, in order.
        first: The first entry of each part.
        digests: Digest of each entry's input.
        lengths: Rows of each entry.
        newest: The last entry of each clip.
        older: Those before it, of clips that have several; in order.
    """

    parts: list[str] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    newest: dict[str, int] = field(default_factory=dict)
    older: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, part: PartAttributes) -> None:
        """Take up the entries of the next part."""
        start = len(self.digests)
        if not self.newest.keys().isdisjoint(part.clip_id):
            for clip_id in self.newest.keys() & set(part.clip_id):
                self.older.setdefault(clip_id, []).append(self.newest[clip_id])
        if len(set(part.clip_id)) < len(part.clip_id):  # a clip stands here once for each of several digests
            last = {clip_id: entry for entry, clip_id in enumerate(part.clip_id)}
            for entry, clip_id in enumerate(part.clip_id):
                if entry < last[clip_id]:
                    self.older.setdefault(clip_id, []).append(start + entry)
        self.parts.append(name)
        self.first.append(start)
        self.digests.extend(part.digest)
        self.lengths.extend(part.length)
        self.newest.update(zip(part.clip_id, range(start, start + len(part.clip_id)), strict=True))

    def find(self, clip_id: str, digest: str) -> int:
        """The last entry of a clip's features of exactly this input, or -1."""
        entry = self.newest.get(clip_id, -1)
        if entry < 0 or self.digests[entry] == digest:
            return entry
        return next((older for older in reversed(self.older.get(clip_id, ())) if self.digests[older] == digest), -1)

    def entries(self, clip_ids: Sequence[str], digests: Mapping[str, str] | None) -> Numbers:
        """The entry of each clip, (n,): of the digest asked for, or the newest; -1 where there is none."""
        if digests is None:
            return np.fromiter(map(self.newest.get, clip_ids, repeat(-1)), np.int64, len(clip_ids))
        # A clip that has no input at all has no digest, and nothing has the digest "".
        wanted = map(digests.get, clip_ids, repeat(""))
        return np.fromiter(map(self.find, clip_ids, wanted), np.int64, len(clip_ids))

    def longest(self, entries: Numbers) -> int:
        """Rows of the longest of some entries; 0 when there are none."""
        return int(np.array(self.lengths, np.int64)[entries[entries >= 0]].max(initial=0))

    def rows(self, name: str) -> int:
        """How many rows a part must have."""
        number = self.parts.index(name)
        first, end = [*self.first, len(self.lengths)][number : number + 2]
        return sum(self.lengths[first:end])

    def wanted(self, entries: Numbers) -> Iterator[Wanted]:
        """What is to be read of each part that is needed, given the entry of each clip asked for (-1: none)."""
        positions = np.flatnonzero(entries >= 0)
        positions = positions[np.argsort(entries[positions], kind="stable")]
        edges = [*self.first, len(self.lengths)]
        cuts = np.searchsorted(entries[positions], edges)
        all_lengths = np.array(self.lengths, np.int64)
        for name, (first, end), (start, stop) in zip(self.parts, pairwise(edges), pairwise(cuts), strict=True):
            here = positions[start:stop]
            if len(here):
                lengths = all_lengths[first:end]
                starts = np.cumsum(lengths) - lengths
                within = entries[here] - first
                yield Wanted(name, here, starts[within], lengths[within])
