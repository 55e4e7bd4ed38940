"""Reading a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.errors import MissingInput, StaleStore
from ecmf_pipeline.pooling import Pool, pool_segments, pooled_width
from ecmf_pipeline.store.format import current_fingerprint, group_attributes, has_fingerprint
from ecmf_pipeline.store.parts import PartAttributes, array_names, part_names, read_array, read_attributes
from ecmf_pipeline.store.rows import FeatureRow, Features, Sequences

Answer = TypeVar("Answer")


@dataclass
class _Table:
    """Where the rows of each clip stand. An entry is a number: the how-manieth of all parts' entries it is.

    Columns of plain numbers, for 132,000 clips must be looked up in a fraction of a second.
    """

    names: list[str] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    """The first entry of each part."""
    digests: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    newest: dict[str, int] = field(default_factory=dict)
    older: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, part: PartAttributes) -> None:
        """Take up the entries of the next part."""
        start = len(self.digests)
        for clip_id in self.newest.keys() & set(part.clip_id):
            self.older.setdefault(clip_id, []).append(self.newest[clip_id])
        if len(set(part.clip_id)) < len(part.clip_id):  # never written by us, but a reader must not lose a row by it
            for entry, clip_id in enumerate(part.clip_id):
                if clip_id in part.clip_id[entry + 1 :]:
                    self.older.setdefault(clip_id, []).append(start + entry)
        self.names.append(name)
        self.first.append(start)
        self.digests.extend(part.digest)
        self.lengths.extend(part.length)
        self.newest.update(zip(part.clip_id, range(start, start + len(part.clip_id)), strict=True))

    def find(self, clip_id: str, digest: str) -> int:
        """The entry of a clip's features of exactly this input, or -1."""
        entry = self.newest.get(clip_id, -1)
        if entry < 0 or self.digests[entry] == digest:
            return entry
        return next((older for older in self.older.get(clip_id, ()) if self.digests[older] == digest), -1)


class FeatureStore:
    """The features of one modality under one encoder's settings, for reading.

    Attributes:
        root: The ``*.zarr`` folder of the modality.
        fingerprint: Of the settings.
        folder: The settings' group.
        settings: All that changes the numbers, as plain JSON values.
        dim: D; None as long as no clip had such an input.
        dtype: The stored type.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.root = root
        self.fingerprint = fingerprint
        self.folder = root / fingerprint
        attributes = group_attributes(self.folder)
        self.dim: int | None = attributes["dim"]
        self.dtype = np.dtype(attributes["dtype"])
        self.settings: dict[str, Any] = attributes["settings"]
        self._table = _Table()
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
                f"params.yaml changed since: run `ecmf-pipe extract --modality {root.stem}`",
            )
        return cls(root, wanted)

    def refresh(self) -> None:
        """Take up the parts that were added, or merged, since the store was opened."""
        names = part_names(self.folder)
        known = self._table.names
        if not set(known) <= set(names) or any(name < known[-1] for name in set(names) - set(known) if known):
            self._table, self._superseded = _Table(), set()
            known = self._table.names
        new = {name: read_attributes(self.folder / name, self.fingerprint) for name in names if name not in set(known)}
        replaced = {old for part in new.values() for old in part.supersedes}
        if replaced & set(known):
            self._table, self._superseded = _Table(), set()
            self.refresh()
            return
        self._superseded |= replaced
        for name, part in new.items():
            if name not in self._superseded:
                self._table.add(name, part)

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
        """Those of many clips whose features of exactly this input are here.

        Args:
            digests: The digest of each clip's input.
        """
        find = self._table.find
        return {clip_id for clip_id, digest in digests.items() if find(clip_id, digest) >= 0}

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
        return self._while_parts_move(lambda: self._load(clip_ids, pool, digests))

    def load_sequences(self, clip_ids: Sequence[str], *, digests: Mapping[str, str] | None = None) -> Sequences:
        """Read frame-level features, padded to the longest.

        Args:
            clip_ids: The clips, in the order wanted.
            digests: As for `load`.

        Raises:
            StoreError: When a part is damaged.
        """
        return self._while_parts_move(lambda: self._load_sequences(clip_ids, digests))

    def row(self, clip_id: str, digest: str | None = None) -> FeatureRow:
        """The frame-level features of one clip with all that is kept beside them.

        Raises:
            KeyError: When the clip has none.
            StoreError: When the part is damaged.
        """
        return self._while_parts_move(lambda: self._row(clip_id, digest))

    def _while_parts_move(self, read: Callable[[], Answer]) -> Answer:
        try:
            return read()
        except FileNotFoundError:  # parts were merged since we looked: their rows stand in another one now
            self.refresh()
            return read()

    def _load(self, clip_ids: Sequence[str], pool: Pool, digests: Mapping[str, str] | None) -> Features:
        entries = self._find(clip_ids, digests)
        values = np.empty((len(clip_ids), pooled_width(self.dim or 0, pool)), np.float32)
        values[entries < 0] = np.nan
        for name, positions, starts, lengths in self._by_part(entries):
            stored = read_array(self.folder / name / "values")
            if int(lengths.max()) == 1 and pool != "mean_std":
                values[positions] = stored[starts]
            else:
                if int(lengths.sum()) < len(stored):
                    stored = stored[_spans(starts, lengths)]
                values[positions] = pool_segments(stored.astype(np.float32), lengths, pool)
        return Features(values, entries >= 0)

    def _load_sequences(self, clip_ids: Sequence[str], digests: Mapping[str, str] | None) -> Sequences:
        entries = self._find(clip_ids, digests)
        parts = list(self._by_part(entries))
        longest = max((int(lengths.max()) for *_, lengths in parts), default=0)
        values = np.full((len(clip_ids), longest, self.dim or 0), np.nan, np.float32)
        mask = np.zeros((len(clip_ids), longest), np.bool_)
        for name, positions, starts, lengths in parts:
            stored = read_array(self.folder / name / "values")
            for position, start, length in zip(positions, starts, lengths, strict=True):
                values[position, :length] = stored[start : start + length]
                mask[position, :length] = True
        return Sequences(values, mask)

    def _row(self, clip_id: str, digest: str | None) -> FeatureRow:
        entries = self._find([clip_id], None if digest is None else {clip_id: digest})
        if entries[0] < 0:
            raise KeyError(clip_id)
        ((name, _, starts, lengths),) = self._by_part(entries)
        rows = slice(int(starts[0]), int(starts[0] + lengths[0]))
        folder = self.folder / name
        arrays = {array: read_array(folder / array)[rows] for array in array_names(folder)}
        return FeatureRow(clip_id, self._table.digests[int(entries[0])], arrays.pop("values"), arrays)

    def _find(self, clip_ids: Sequence[str], digests: Mapping[str, str] | None) -> NDArray[np.int64]:
        """The entry of each clip, (n,), -1 where there is none."""
        newest = self._table.newest
        if digests is None:
            return np.array([newest.get(clip_id, -1) for clip_id in clip_ids], np.int64)
        find = self._table.find
        # A clip that has no input at all has no digest, and nothing has the digest "".
        return np.array([find(clip_id, digests.get(clip_id, "")) for clip_id in clip_ids], np.int64)

    def _by_part(
        self, entries: NDArray[np.int64]
    ) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """For each part that is needed: its name, positions in what was asked, and start and length of their rows.

        Positions are in the order in which their rows stand in the part.
        """
        positions = np.flatnonzero(entries >= 0)
        positions = positions[np.argsort(entries[positions], kind="stable")]
        bounds = np.searchsorted(entries[positions], [*self._table.first, len(self._table.digests)])
        all_lengths = np.array(self._table.lengths, np.int64)
        for number, name in enumerate(self._table.names):
            here = positions[bounds[number] : bounds[number + 1]]
            if len(here) == 0:
                continue
            first = self._table.first[number]
            last = self._table.first[number + 1] if number + 1 < len(self._table.first) else len(all_lengths)
            lengths = all_lengths[first:last]
            starts = np.cumsum(lengths) - lengths
            within = entries[here] - first
            yield name, here, starts[within], lengths[within]


def _spans(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row numbers of several runs of rows, one after another."""
    ends = np.cumsum(lengths)
    numbers: NDArray[np.int64] = np.arange(int(ends[-1])) + np.repeat(starts - (ends - lengths), lengths)
    return numbers
