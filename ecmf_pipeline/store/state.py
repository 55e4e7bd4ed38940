"""Which rows of a store count, and which are superfluous: what `verify`, `compact` and `ls` judge by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import StoreError
from ecmf_pipeline.store.parts import PartAttributes, all_versions, part_names, read_attributes

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


_FINGERPRINT = re.compile(r"[0-9a-f]{12}")

Digests = Mapping[str, str | None]
"""Of each clip of the manifest, the digest of its present input; None where it has no such input."""

Present = Callable[[Mapping[str, Any], Mapping[str, str]], Digests | None]
"""Tells the present digests from the settings of a store and the newest digest of each clip that it holds; None where
no manifest tells."""


def unknown(_settings: Mapping[str, Any], _newest: Mapping[str, str]) -> None:
    """What is present where there is no manifest."""


class Standing(StrEnum):
    """What the row of a clip is to the manifest."""

    COUNTS = "counts"
    """Features of the clip's present input; without a manifest, of any."""
    DUPLICATE = "duplicate"
    """The same clip and digest stand again further on."""
    REPLACED = "replaced"
    """Features of another input than the present one, of which there are features too."""
    OUTDATED = "outdated"
    """Features of another input than the present one, of which there are none (yet)."""
    ABSENT = "absent"
    """Features of a clip that the manifest no longer has."""


@dataclass(frozen=True)
class Parts:
    """What the parts of a settings group say of their rows.

    Attributes:
        sound: Those that count and can be read, in order.
        superseded: Those that were merged into another and still stand.
        damaged: Those whose attributes cannot be read, and why.
    """

    sound: dict[str, PartAttributes] = field(default_factory=dict)
    superseded: list[str] = field(default_factory=list)
    damaged: dict[str, StoreError] = field(default_factory=dict)

    def newest(self) -> dict[str, str]:
        """For each clip, the digest of its newest row."""
        return {
            clip_id: digest
            for part in self.sound.values()
            for clip_id, digest in zip(part.clip_id, part.digest, strict=True)
        }

    def versions(self) -> list[dict[str, str]]:
        """The combinations of library versions that computed the rows; an empty one where some are unknown."""
        return all_versions(chain.from_iterable(part.versions or [{}] for part in self.sound.values()))

    def without(self, names: Iterable[str]) -> Parts:
        """The same but for some parts that count."""
        gone = set(names)
        sound = {name: part for name, part in self.sound.items() if name not in gone}
        return Parts(sound, self.superseded, self.damaged)


def read_parts(folder: Path, fingerprint: str) -> Parts:
    """Read the attributes of all parts of a settings group; damaged ones hinder nothing.

    Args:
        folder: The settings group.
        fingerprint: Of its settings.
    """
    parts = Parts()
    for name in part_names(folder):
        try:
            parts.sound[name] = read_attributes(folder / name, fingerprint)
        except StoreError as error:
            parts.damaged[name] = error
        except FileNotFoundError:
            continue  # merged into another since we saw its name
    replaced = {old for part in parts.sound.values() for old in part.supersedes}
    parts.superseded.extend(name for name in parts.sound if name in replaced)
    for name in parts.superseded:
        del parts.sound[name]
    return parts


def judge(parts: Mapping[str, PartAttributes], digests: Digests | None) -> dict[str, list[Standing]]:
    """Tell for every entry of some parts what it is to the manifest.

    Of entries that are the same in clip and digest the last counts, so that taking the others away changes neither
    which row of a clip is the newest, nor what is held.

    Args:
        parts: The parts that count, in order.
        digests: What the manifest says; None where there is none.
    """
    held: set[tuple[str, str]] = set()
    last: dict[str, list[bool]] = {}
    for name, part in reversed(list(parts.items())):
        entries = list(zip(part.clip_id, part.digest, strict=True))
        flags = []
        for entry in reversed(entries):
            flags.append(entry not in held)
            held.add(entry)
        last[name] = flags[::-1]
    return {
        name: [
            _standing(entry, held, digests) if is_last else Standing.DUPLICATE
            for entry, is_last in zip(zip(part.clip_id, part.digest, strict=True), last[name], strict=True)
        ]
        for name, part in parts.items()
    }


def _standing(entry: tuple[str, str], held: set[tuple[str, str]], digests: Digests | None) -> Standing:
    clip_id, digest = entry
    if digests is None:
        return Standing.COUNTS
    if clip_id not in digests:
        return Standing.ABSENT
    present = digests[clip_id]
    if present == digest:
        return Standing.COUNTS
    return Standing.REPLACED if present is not None and (clip_id, present) in held else Standing.OUTDATED


def counted(standings: Mapping[str, list[Standing]]) -> Counter[Standing]:
    """How many entries there are of each standing."""
    return Counter(standing for part in standings.values() for standing in part)


def settings_groups(root: Path) -> Iterator[str]:
    """The names of a store's settings groups: folders that hold such a group's document, or parts.

    What has no fingerprint for a name is no settings group, whatever it holds: nothing ever reads it.
    """
    for folder in sorted(root.iterdir()):
        if _FINGERPRINT.fullmatch(folder.name) and ((folder / "zarr.json").is_file() or part_names(folder)):
            yield folder.name


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
