"""Read a store: which part holds the rows of a clip, and how they become what models take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Ints, pool_segments, pooled_width, shortened
from ecmf_pipeline.core.config import Pool
from ecmf_pipeline.core.errors import MissingInput, StaleStore, StoreError
from ecmf_pipeline.store.format import (
    FeatureRow,
    PartAttributes,
    array_names,
    current_fingerprint,
    has_fingerprint,
    part_names,
    read_array,
    read_attributes,
    read_parts,
    settings_attributes,
)

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")

_ROWS_AT_ONCE = 256
"""Rows that are pooled together: they stay in a core's cache from widening to averaging."""

_BLOCK = 1 << 16
"""Elements that are widened at once: they stay in a core's cache between the steps."""

_MOVES = 5
"""How often parts may move between looking where a row stands and reading it."""


@dataclass(frozen=True, slots=True)
class Features:
    """Pooled features in the order they were asked for.

    Attributes:
        values: (n, D), float32, contiguous; NaN rows where the clip has none.
        present: (n,), whether the clip has features.
    """

    values: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sequences:
    """Frame-level features in the order they were asked for, padded to the longest.

    Attributes:
        values: (n, T, D), float32, contiguous; NaN where there is nothing.
        mask: (n, T), which of them are there; a clip without features has none.
    """

    values: NDArray[np.float32]
    mask: NDArray[np.bool_]


def _while_parts_move(
    read: Callable[Concatenate[FeatureStore, Asked], Answer],
) -> Callable[Concatenate[FeatureStore, Asked], Answer]:
    """Have a method read again where parts were merged since the store looked: their rows stand in another one now."""

    @wraps(read)
    def reading(store: FeatureStore, /, *args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        for _ in range(_MOVES):
            try:
                return read(store, *args, **kwargs)
            except FileNotFoundError:
                store.refresh()
        return read(store, *args, **kwargs)

    return reading


class FeatureStore:
    """The features of one modality under one encoder's settings, for reading.

    Attributes:
        root: The ``*.zarr`` folder of the modality.
        fingerprint: Of the settings.
        folder: The settings' group.
        settings: All that changes the numbers, as plain JSON values.
        provenance: Where the features come from, as plain JSON values; empty where the store does not say.
        dim: D; None as long as no clip had such an input.
        dtype: The stored type.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.root = root
        self.fingerprint = fingerprint
        self.folder = root / fingerprint
        self.dim: int | None = None
        self.dtype = np.dtype(np.float32)
        self.settings: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}
        self._table = Table()
        self._superseded: set[str] = set()
        self.refresh()

    @classmethod
    def open(cls, root: Path, fingerprint: str | None = None) -> FeatureStore:
        """Open a store: the current one, or that of a given fingerprint.

        Raises:
            MissingInput: When there is no store.
            StaleStore: When the store holds features of other settings only.
        """
        current = current_fingerprint(root)
        if current is None:
            raise MissingInput(
                f"{root} is missing",
                f"run `ecmf-pipe extract --modality {root.stem}`, or `dvc pull` if a colleague did",
            )
        wanted = fingerprint or current
        if not has_fingerprint(root, wanted):
            raise StaleStore(
                f"{root} holds features of the settings {current}, not of {wanted}",
                "params.yaml, the weights, or what reads videos here (media.reader: auto) are not those that made "
                f"them: see `ecmf-pipe store ls`, or run `ecmf-pipe extract --modality {root.stem}`",
            )
        return cls(root, wanted)

    def refresh(self) -> None:
        """Take up the parts that were added, or merged, since the store was opened.

        Raises:
            MissingInput: When there is no such store (any more).
            StoreError: When it is damaged, or has another format.
        """
        current_fingerprint(self.root)  # refuses another format
        attributes = settings_attributes(self.folder)
        self.dim, self.settings = attributes["dim"], attributes["settings"]
        self.provenance = attributes.get("provenance", {})
        self.dtype = np.dtype(attributes["dtype"])
        names = [name for name in part_names(self.folder) if name not in self._superseded]
        known = self._table.parts
        if not set(known) <= set(names) or any(name < known[-1] for name in set(names) - set(known) if known):
            self._start_anew()
            return
        try:
            new = {name: read_attributes(self.folder / name, self.fingerprint) for name in names[len(known) :]}
        except FileNotFoundError:  # merged into another since we saw its name
            self.refresh()
            return
        replaced = {old for part in new.values() for old in part.supersedes}
        if replaced & set(known):
            self._start_anew()
            return
        self._superseded |= replaced
        for name, part in new.items():
            if name not in self._superseded:
                self._table.add(name, part)

    def versions(self) -> list[dict[str, str]]:
        """The combinations of library versions that computed the rows, each once; an empty one where some are unknown.

        None at all where the store does not say.
        """
        return read_parts(self.folder, self.fingerprint).versions()

    def _start_anew(self) -> None:
        self._table, self._superseded = Table(), set()
        self.refresh()

    def __len__(self) -> int:
        """How many clips have features."""
        return len(self._table.newest)

    def digests(self) -> dict[str, list[str]]:
        """For each clip, the digests of the inputs its rows were computed from, oldest first."""
        table = self._table
        return {
            clip_id: [table.digests[older] for older in table.older.get(clip_id, ())] + [table.digests[entry]]
            for clip_id, entry in table.newest.items()
        }

    def newest(self) -> dict[str, str]:
        """For each clip, the digest of the input its newest features were computed from."""
        digests = self._table.digests
        return {clip_id: digests[entry] for clip_id, entry in self._table.newest.items()}

    def holds(self, clip_id: str, digest: str) -> bool:
        """Whether the clip's features of exactly this input are here."""
        return self._table.find(clip_id, digest) >= 0

    def held(self, digests: Mapping[str, str]) -> set[str]:
        """Those of many clips, given with the digests of their inputs, whose features of exactly these are here."""
        find = self._table.find
        return {clip_id for clip_id, digest in digests.items() if find(clip_id, digest) >= 0}

    @_while_parts_move
    def load(
        self, clip_ids: Sequence[str], *, pool: Pool = "mean", digests: Mapping[str, str] | None = None
    ) -> Features:
        """Read pooled features.

        Args:
            clip_ids: The clips, in the order wanted.
            pool: How a clip's rows become one vector.
            digests: The input each clip's features must come from; a clip whose row is older counts as missing.
                None takes the newest row.

        Raises:
            StoreError: When a part is damaged.
        """
        entries = self._table.entries(clip_ids, digests)
        values = np.empty((len(clip_ids), pooled_width(self.dim or 0, pool)), np.float32)
        values[entries < 0] = np.nan
        scratch = np.empty((2 * _ROWS_AT_ONCE, self.dim or 0), np.float32)
        for wanted in self._table.wanted(entries):
            stored = self._stored(wanted.part)
            for clips in _blocks(wanted.lengths):
                lengths, where = wanted.lengths[clips], _as_slice(wanted.positions[clips])
                rows = stored[_as_slice(_spans(wanted.starts[clips], lengths))]
                is_pooled = pool != "mean_std" and len(rows) == len(lengths)  # one row is its mean and maximum
                if is_pooled and isinstance(where, slice):
                    widen(rows, values[where])
                    continue
                wide = scratch[: len(rows)] if len(rows) <= len(scratch) else np.empty(rows.shape, np.float32)
                widen(rows, wide)
                values[where] = wide if is_pooled else pool_segments(wide, lengths, pool)
        return Features(values, entries >= 0)

    @_while_parts_move
    def load_sequences(
        self, clip_ids: Sequence[str], *, digests: Mapping[str, str] | None = None, most: int | None = None
    ) -> Sequences:
        """Read frame-level features, padded to the longest.

        Args:
            clip_ids: The clips, in the order wanted.
            digests: As for `load`.
            most: Rows of a clip at most; longer sequences are averaged in as many runs (`arrays.shortened`). None
                takes them as they are.

        Raises:
            StoreError: When a part is damaged.
        """
        entries = self._table.entries(clip_ids, digests)
        longest = int(np.array(self._table.lengths, np.int64)[entries[entries >= 0]].max(initial=0))
        longest = longest if most is None else min(longest, most)
        values = np.full((len(clip_ids), longest, self.dim or 0), np.nan, np.float32)
        mask = np.zeros((len(clip_ids), longest), np.bool_)
        for wanted in self._table.wanted(entries):
            stored = self._stored(wanted.part)
            for position, start, length in zip(wanted.positions, wanted.starts, wanted.lengths, strict=True):
                kept = min(int(length), longest)
                if kept == length:
                    widen(stored[start : start + length], values[position, :kept])
                else:
                    values[position, :kept] = shortened(stored[start : start + length].astype(np.float32), kept)
                mask[position, :kept] = True
        return Sequences(values, mask)

    @_while_parts_move
    def row(self, clip_id: str, digest: str | None = None) -> FeatureRow:
        """The frame-level features of one clip with all that is kept beside them.

        Raises:
            KeyError: When the clip has none.
            StoreError: When the part is damaged.
        """
        entries = self._table.entries([clip_id], None if digest is None else {clip_id: digest})
        if entries[0] < 0:
            raise KeyError(clip_id)
        (wanted,) = self._table.wanted(entries)
        rows = slice(int(wanted.starts[0]), int(wanted.starts[0] + wanted.lengths[0]))
        folder = self.folder / wanted.part
        side = {name: read_array(folder / name)[rows] for name in array_names(folder) if name != "values"}
        return FeatureRow(clip_id, self._table.digests[int(entries[0])], self._stored(wanted.part)[rows], side)

    def _stored(self, name: str) -> NDArray[Any]:
        """All rows of a part, (rows, D)."""
        values = read_array(self.folder / name / "values")
        expected = (self._table.rows(name), self.dim)
        if values.shape != expected:
            raise StoreError(
                f"{self.folder / name / 'values'} holds {values.shape} values, not {expected}",
                "`ecmf-pipe store verify` says what is damaged and how to mend it",
            )
        return values


def _blocks(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Cut clips into runs whose rows add up to about `_ROWS_AT_ONCE`."""
    ends = np.cumsum(lengths)
    cuts = np.unique(np.searchsorted(ends, np.arange(0, int(ends[-1]), _ROWS_AT_ONCE), side="right"))
    for start, end in pairwise([*cuts.tolist(), len(lengths)]):
        yield slice(start, end)


def _spans(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row numbers of several runs of rows, one after another."""
    ends = np.cumsum(lengths)
    numbers: NDArray[np.int64] = np.arange(int(ends[-1])) + np.repeat(starts - (ends - lengths), lengths)
    return numbers


def _as_slice(numbers: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """Ints that follow one upon another as a slice, which reads and writes without a copy."""
    if (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers


def widen(values: NDArray[Any], out: NDArray[np.float32]) -> None:
    """Write features of any type as float32 into ``out``, of the same shape and contiguous."""
    if values.dtype != np.float16 or not values.flags.c_contiguous or _has_odd_ones(values):
        out[...] = values
        return
    halves, floats = values.reshape(-1).view(np.int16), out.reshape(-1)
    bits = floats.view(np.int32)
    for start in range(0, len(halves), _BLOCK):
        block = bits[start : start + _BLOCK]
        block[...] = halves[start : start + _BLOCK]  # the sign now fills the upper half
        np.left_shift(block, 13, out=block)  # 10 bits of mantissa become 23
        np.bitwise_and(block, np.int32(-0x7000_2000), out=block)  # sign, 5 bits of exponent, mantissa
        # The exponents' biases are 15 and 127; the product is exact, for subnormal numbers too.
        np.multiply(floats[start : start + _BLOCK], np.float32(2.0**112), out=floats[start : start + _BLOCK])


def _has_odd_ones(values: NDArray[Any]) -> bool:
    """Whether float16 values hold NaN or infinity (all bits of the exponent set)."""
    return bool(values.size) and int((values.view(np.uint16) << 1).max()) >= 0xF800


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
    positions: Ints
    starts: Ints
    lengths: Ints


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

    def entries(self, clip_ids: Sequence[str], digests: Mapping[str, str] | None) -> Ints:
        """The entry of each clip, (n,): of the digest asked for, or the newest; -1 where there is none."""
        if digests is None:
            return np.fromiter(map(self.newest.get, clip_ids, repeat(-1)), np.int64, len(clip_ids))
        # A clip that has no input at all has no digest, and nothing has the digest "".
        wanted = map(digests.get, clip_ids, repeat(""))
        return np.fromiter(map(self.find, clip_ids, wanted), np.int64, len(clip_ids))

    def rows(self, name: str) -> int:
        """How many rows a part must have."""
        number = self.parts.index(name)
        first, end = [*self.first, len(self.lengths)][number : number + 2]
        return sum(self.lengths[first:end])

    def wanted(self, entries: Ints) -> Iterator[Wanted]:
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
