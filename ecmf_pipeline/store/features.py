"""Read a store: find the rows of each clip, pool or pad them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from itertools import pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Ints, ShortRepr, average_rows, pool_segments, pooled_width
from ecmf_pipeline.core.config import Pool, PoolOrFrames
from ecmf_pipeline.core.errors import InputError, MissingInput, StaleStore
from ecmf_pipeline.core.files import StrPath
from ecmf_pipeline.core.files import fingerprint as fingerprint_of
from ecmf_pipeline.store.format import (
    FeatureRow,
    PartAttributes,
    array_names,
    current_fingerprint,
    current_fingerprints,
    damage_error,
    has_fingerprint,
    part_names,
    read_array,
    read_attributes,
    read_parts,
    settings_attributes,
)
from ecmf_pipeline.store.state import encoder_name

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_ROWS_PER_BLOCK = 256
"""Rows converted to float32 and pooled together: they fit into the cache of a core."""

_ELEMENTS_PER_BLOCK = 1 << 16
"""Elements converted to float32 together: they fit into the cache of a core."""

_READ_RETRIES = 5
"""Maximum number of retries of a read because parts were merged between the lookup and the read."""


@dataclass(frozen=True, slots=True, repr=False)
class Features(ShortRepr):
    """Pooled features in the requested order.

    Attributes:
        values: (n, D), float32, contiguous; rows of clips without features are NaN.
        present: (n,), whether each clip has features.
    """

    values: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, repr=False)
class Sequences(ShortRepr):
    """Frame-level features in the requested order, padded to the longest.

    Attributes:
        values: (n, T, D), float32, contiguous; padding is NaN.
        mask: (n, T), True for rows, False for padding; all False for a clip without features.
    """

    values: NDArray[np.float32]
    mask: NDArray[np.bool_]


def _retry_after_merge(
    read: Callable[Concatenate[FeatureStore, Arguments], Result],
) -> Callable[Concatenate[FeatureStore, Arguments], Result]:
    """Retry a method if parts were merged since the store was opened: refresh, then read from the merged part."""

    @wraps(read)
    def reading(store: FeatureStore, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        for _ in range(_READ_RETRIES):
            try:
                return read(store, *args, **kwargs)
            except FileNotFoundError:
                store.refresh()
        return read(store, *args, **kwargs)

    return reading


class FeatureStore:
    """The features of one modality under the settings of one encoder, for reading.

    Args:
        root: The ``*.zarr`` folder of the modality.
        fingerprint: Fingerprint of the settings; `open` finds the one in use.

    Attributes:
        root: The ``*.zarr`` folder of the modality.
        fingerprint: Fingerprint of the settings.
        folder: The settings group.
        settings: All settings that change the numbers, as plain JSON values.
        provenance: Origin of the features, as plain JSON values; empty if not recorded.
        dim: D; None until a clip has an input of this modality.
        dtype: The stored type.
        column_names: The names of the D columns; a column without a name has its number, such as "17". The encoder
            wrote them into the store, so that no model is needed to read them.
    """

    def __init__(self, root: StrPath, fingerprint: str) -> None:
        self.root = Path(root)
        self.fingerprint = fingerprint
        self.folder = self.root / fingerprint
        self.dim: int | None = None
        self.dtype = np.dtype(np.float32)
        self.settings: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}
        self.column_names: tuple[str, ...] = ()
        self._table = EntryTable()
        self._superseded: set[str] = set()
        self.refresh()

    @classmethod
    def open(cls, root: StrPath, fingerprint: str | None = None, *, encoder: str | None = None) -> FeatureStore:
        """Open the features of the settings in use, or of a given fingerprint.

        Args:
            root: The ``*.zarr`` folder of the modality, such as ``data/features/face.zarr``.
            fingerprint: Fingerprint of the settings; None: those in use.
            encoder: Name of an encoder in use, see `encoder`; needed if the modality has several.

        Raises:
            MissingInput: If there is no store.
            InputError: If several encoders are in use and ``encoder`` is not the name of exactly one of them.
            StaleStore: If the store has no features of these settings.
            StoreError: If it is damaged or has another format.
        """
        root = Path(root)
        current = current_fingerprints(root)
        if not current:
            raise MissingInput(
                f"{root} does not exist",
                "compute the features, or get them from a colleague with dvc pull",
                command=f"ecmf-pipe extract --modality {root.stem}",
            )
        requested = fingerprint or _select(root, current, encoder)
        if not has_fingerprint(root, requested):
            raise StaleStore(
                f"{root} holds features of the settings {', '.join(current)}, not of {requested}",
                "params.yaml, the weights or the media reader (media.reader: auto) changed since they were computed; "
                "compute them again",
                command=f"ecmf-pipe extract --modality {root.stem}",
            )
        return cls(root, requested)

    def refresh(self) -> None:
        """Load the parts that were added or merged since the store was opened.

        Raises:
            MissingInput: If the store does not exist (any more).
            StoreError: If it is damaged or has another format.
        """
        current_fingerprint(self.root)  # raises if the store has another format
        attributes = settings_attributes(self.folder)
        self.dim, self.settings = attributes["dim"], attributes["settings"]
        if fingerprint_of(self.settings) != self.fingerprint:
            raise damage_error(f"the settings in {self.folder / 'zarr.json'} do not have the fingerprint of its folder")
        self.provenance = attributes.get("provenance", {})
        names = attributes.get("columns") or [""] * (self.dim or 0)
        self.column_names = tuple(name or str(number) for number, name in enumerate(names))
        self.dtype = np.dtype(attributes["dtype"])
        parts = [name for name in part_names(self.folder) if name not in self._superseded]
        known = self._table.parts
        if not set(known) <= set(parts) or any(name < known[-1] for name in set(parts) - set(known) if known):
            self._reload()
            return
        try:
            new = {name: read_attributes(self.folder / name, self.fingerprint) for name in parts[len(known) :]}
        except FileNotFoundError:  # merged into another part since the names were listed
            self.refresh()
            return
        replaced = {old for part in new.values() for old in part.supersedes}
        if replaced & set(known):
            self._reload()
            return
        self._superseded |= replaced
        for name, part in new.items():
            if name not in self._superseded:
                self._table.add(name, part)

    def versions(self) -> list[dict[str, str]]:
        """Return each combination of library versions that computed some of the rows.

        An empty combination means that some rows have unknown versions; an empty list means that all have.
        """
        return read_parts(self.folder, self.fingerprint).versions()

    def _reload(self) -> None:
        self._table, self._superseded = EntryTable(), set()
        self.refresh()

    def __len__(self) -> int:
        """Return the number of clips with features."""
        return len(self._table.newest)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r}, {len(self)} clips, {self.dim} x {self.dtype}, {self.encoder})"

    @property
    def encoder(self) -> str:
        """Name of the encoder: its model on the hub, the name of imported features, or its type."""
        return encoder_name(self.settings)

    @property
    def clip_ids(self) -> list[str]:
        """The clips with features, in the order in which they were stored first."""
        return list(self._table.newest)

    def digests(self) -> dict[str, list[str]]:
        """Return, for each clip, the digests of the inputs of its entries, oldest first."""
        table = self._table
        return {
            clip_id: [table.digests[older] for older in table.older.get(clip_id, ())] + [table.digests[entry]]
            for clip_id, entry in table.newest.items()
        }

    def newest(self) -> dict[str, str]:
        """Return, for each clip, the digest of the input of its newest features."""
        digests = self._table.digests
        return {clip_id: digests[entry] for clip_id, entry in self._table.newest.items()}

    def holds(self, clip_id: str, digest: str) -> bool:
        """Return whether the store has features of this clip that were computed from exactly this input."""
        return self._table.find(clip_id, digest) >= 0

    def newest_table(self) -> pa.Table:
        """Return the columns ``clip_id`` and ``digest`` of the newest features of each clip; see `newest`."""
        import pyarrow as pa

        newest = self._table.newest
        entries = pa.array(np.fromiter(newest.values(), np.int64, len(newest)))
        digests = pa.array(self._table.digests, pa.string()).take(entries)
        return pa.table({"clip_id": pa.array(list(newest), pa.string()), "digest": digests})

    def have_features(self, inputs: pa.Table) -> NDArray[np.bool_]:
        """Return whether the store has features of each clip that were computed from exactly this input, (n,).

        Args:
            inputs: The columns ``clip_id`` and ``digest`` of the inputs, (n,).
        """
        import pyarrow.compute as pc

        newest = self.newest_table()
        entries = pc.index_in(inputs.column("clip_id"), value_set=newest.column("clip_id"))
        is_newest = pc.equal(newest.column("digest").take(entries), inputs.column("digest"))
        found: NDArray[np.bool_] = pc.fill_null(is_newest, False).to_numpy().copy()
        rows = np.flatnonzero(~found) if self._table.older else np.empty(0, np.int64)
        if len(rows):
            others = inputs.take(rows)
            found[rows] = list(
                map(self.holds, others.column("clip_id").to_pylist(), others.column("digest").to_pylist())
            )
        return found

    def clips_with_features(self, digests: Mapping[str, str]) -> set[str]:
        """Return the clips whose features were computed from exactly the given inputs.

        Args:
            digests: Digest of the input of each clip.
        """
        find = self._table.find
        return {clip_id for clip_id, digest in digests.items() if find(clip_id, digest) >= 0}

    @_retry_after_merge
    def load(
        self, clip_ids: Sequence[str], *, pool: Pool = "mean", digests: Mapping[str, str] | None = None
    ) -> Features:
        """Read pooled features.

        Args:
            clip_ids: The clips, in the requested order.
            pool: How the rows of a clip become one vector.
            digests: Required digest of the input of each clip; a clip with features of another input only counts as
                missing. None: use the newest features of each clip.

        Raises:
            StoreError: If a part is damaged.
        """
        entries = self._table.entries(clip_ids, digests)
        values = np.empty((len(clip_ids), pooled_width(self.dim or 0, pool)), np.float32)
        values[entries < 0] = np.nan
        scratch = np.empty((2 * _ROWS_PER_BLOCK, self.dim or 0), np.float32)
        for part_read in self._table.part_reads(entries):
            stored = self._read_values(part_read.part)
            for clips in _blocks(part_read.lengths):
                lengths, target = part_read.lengths[clips], _as_slice(part_read.positions[clips])
                rows = stored[_as_slice(_row_numbers(part_read.starts[clips], lengths))]
                is_pooled = pool != "mean_std" and len(rows) == len(lengths)  # one row is its own mean and maximum
                if is_pooled and isinstance(target, slice):
                    widen(rows, values[target])
                    continue
                wide = scratch[: len(rows)] if len(rows) <= len(scratch) else np.empty(rows.shape, np.float32)
                widen(rows, wide)
                values[target] = wide if is_pooled else pool_segments(wide, lengths, pool)
        return Features(values, entries >= 0)

    @_retry_after_merge
    def load_sequences(
        self, clip_ids: Sequence[str], *, digests: Mapping[str, str] | None = None, max_rows: int | None = None
    ) -> Sequences:
        """Read frame-level features, padded to the longest sequence.

        Args:
            clip_ids: The clips, in the requested order.
            digests: See `load`.
            max_rows: Maximum number of rows per clip; longer sequences are averaged down to it (`arrays.average_rows`).
                None: no limit.

        Raises:
            StoreError: If a part is damaged.
        """
        entries = self._table.entries(clip_ids, digests)
        longest = int(np.array(self._table.lengths, np.int64)[entries[entries >= 0]].max(initial=0))
        longest = longest if max_rows is None else min(longest, max_rows)
        values = np.full((len(clip_ids), longest, self.dim or 0), np.nan, np.float32)
        mask = np.zeros((len(clip_ids), longest), np.bool_)
        for part_read in self._table.part_reads(entries):
            stored = self._read_values(part_read.part)
            for position, start, length in zip(part_read.positions, part_read.starts, part_read.lengths, strict=True):
                kept = min(int(length), longest)
                if kept == length:
                    widen(stored[start : start + length], values[position, :kept])
                else:
                    values[position, :kept] = average_rows(stored[start : start + length].astype(np.float32), kept)
                mask[position, :kept] = True
        return Sequences(values, mask)

    @_retry_after_merge
    def to_pandas(
        self,
        clip_ids: Sequence[str] | None = None,
        *,
        pool: PoolOrFrames = "mean",
        missing: Literal["nan", "drop"] = "nan",
        digests: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        """Read features as a table of float32 with named columns.

        Args:
            clip_ids: The clips, in the requested order; None: `clip_ids`.
            pool: How the rows of a clip become one vector; the names of ``mean_std`` end with ``.mean`` and ``.std``.
                ``frames`` keeps all rows of a clip.
            missing: Whether a requested clip without features is one row of NaN (``nan``) or is left out (``drop``).
            digests: See `load`.

        Returns:
            One row for each clip, with the index ``clip_id``; with ``frames`` one row for each stored row, with the
            index ``clip_id`` and ``row``, which counts from 0 in each clip.

        Raises:
            ValueError: If ``pool`` or ``missing`` has another value.
            StoreError: If a part is damaged.
        """
        import pandas as pd

        for name, value, allowed in (("pool", pool, get_args(PoolOrFrames)), ("missing", missing, ("nan", "drop"))):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
        entries = self._table.entries(self.clip_ids if clip_ids is None else clip_ids, digests)
        requested = np.array(self.clip_ids if clip_ids is None else list(clip_ids), dtype=object)
        if missing == "drop":
            requested = requested[entries >= 0]
        columns = list(self.column_names)
        if pool != "frames":
            if pool == "mean_std":
                columns = [f"{name}.{statistic}" for statistic in ("mean", "std") for name in columns]
            values = self.load(requested.tolist(), pool=pool, digests=digests).values
            return pd.DataFrame(values, pd.Index(requested, name="clip_id"), columns)
        values, lengths = self._load_rows(requested.tolist(), digests)
        starts = np.cumsum(lengths) - lengths
        rows = np.arange(len(values)) - np.repeat(starts, lengths)
        index = pd.MultiIndex.from_arrays([np.repeat(requested, lengths), rows], names=["clip_id", "row"])
        return pd.DataFrame(values, index, columns)

    def _load_rows(
        self, clip_ids: Sequence[str], digests: Mapping[str, str] | None
    ) -> tuple[NDArray[np.float32], Ints]:
        """Read all rows of clips, concatenated (rows, D), and their numbers (n,); a missing clip is one row of NaN."""
        entries = self._table.entries(clip_ids, digests)
        lengths = np.where(entries < 0, 1, np.array([*self._table.lengths, 1], np.int64)[entries])
        ends = np.cumsum(lengths)
        values = np.full((int(lengths.sum()), self.dim or 0), np.nan, np.float32)
        for part_read in self._table.part_reads(entries):
            stored = self._read_values(part_read.part)
            targets = ends[part_read.positions] - part_read.lengths
            for target, start, length in zip(targets, part_read.starts, part_read.lengths, strict=True):
                widen(stored[start : start + length], values[target : target + length])
        return values, lengths

    @_retry_after_merge
    def row(self, clip_id: str, digest: str | None = None) -> FeatureRow:
        """Return the frame-level features of one clip, with the side arrays.

        Args:
            clip_id: The clip.
            digest: Required digest of its input; None: the newest features.

        Raises:
            KeyError: If the clip has no such features.
            StoreError: If the part is damaged.
        """
        entries = self._table.entries([clip_id], None if digest is None else {clip_id: digest})
        if entries[0] < 0:
            raise KeyError(clip_id)
        (part_read,) = self._table.part_reads(entries)
        rows = slice(int(part_read.starts[0]), int(part_read.starts[0] + part_read.lengths[0]))
        folder = self.folder / part_read.part
        identities = self._table.arrays[part_read.part]
        if missing := sorted(identities.keys() - set(array_names(folder))):
            raise damage_error(f"{folder / missing[0]} does not exist")
        side = {
            name: read_array(folder / name, identities.get(name))[rows]
            for name in array_names(folder)
            if name != "values"
        }
        values = self._read_values(part_read.part)[rows]
        return FeatureRow(clip_id, self._table.digests[int(entries[0])], values, side)

    def _read_values(self, name: str) -> NDArray[Any]:
        """Read all rows of a part, (rows, D)."""
        folder = self.folder / name / "values"
        values = read_array(folder, self._table.arrays[name].get("values"))
        expected = (self._table.rows(name), self.dim)
        if values.shape != expected or values.dtype != self.dtype:
            raise damage_error(
                f"{folder} is {values.dtype} of the shape {values.shape}, not {self.dtype} of the shape {expected}"
            )
        return values


def _select(root: Path, current: Sequence[str], encoder: str | None) -> str:
    """Return the fingerprint of the only encoder in use, or of the one with the given name."""
    if encoder is None and len(current) == 1:
        return current[0]
    settings = [settings_attributes(root / fingerprint)["settings"] for fingerprint in current]
    names = list(map(encoder_name, settings))
    if names.count(encoder or "") == 1:
        return current[names.index(encoder or "")]
    # Encoders may share a name, for example with weights in folders: the settings that differ tell them apart.
    encoders = [one["encoder"] if isinstance(one.get("encoder"), Mapping) else {} for one in settings]
    differing = sorted(
        key
        for key, value in encoders[0].items()
        if not isinstance(value, Mapping) and any(other.get(key) != value for other in encoders)
    )
    described = ", ".join(
        " ".join([repr(name), *(f"{key}={one.get(key)}" for key in differing if names.count(name) > 1), f"({number})"])
        for name, one, number in zip(names, encoders, current, strict=True)
    )
    raise InputError(
        f"{root} has features of {described}" + (f", not of {encoder!r}" if encoder else ""),
        "pass the name of one of them as encoder, or its fingerprint",
    )


def _blocks(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Yield slices of consecutive clips with about `_ROWS_PER_BLOCK` rows in total."""
    ends = np.cumsum(lengths)
    cuts = np.unique(np.searchsorted(ends, np.arange(0, int(ends[-1]), _ROWS_PER_BLOCK), side="right"))
    for start, end in pairwise([*cuts.tolist(), len(lengths)]):
        yield slice(start, end)


def _row_numbers(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row numbers of several ranges, concatenated."""
    ends = np.cumsum(lengths)
    numbers: NDArray[np.int64] = np.arange(int(ends[-1])) + np.repeat(starts - (ends - lengths), lengths)
    return numbers


def _as_slice(numbers: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """Convert consecutive numbers to a slice, which NumPy indexes without a copy; return others unchanged."""
    if (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers


def widen(values: NDArray[Any], out: NDArray[np.float32]) -> None:
    """Convert features of any type to float32 and write them to ``out``, of the same shape and contiguous."""
    if values.dtype != np.float16 or not values.flags.c_contiguous or _has_non_finite(values):
        out[...] = values
        return
    halves, floats = values.reshape(-1).view(np.int16), out.reshape(-1)
    bits = floats.view(np.int32)
    for start in range(0, len(halves), _ELEMENTS_PER_BLOCK):
        block = bits[start : start + _ELEMENTS_PER_BLOCK]
        block[...] = halves[start : start + _ELEMENTS_PER_BLOCK]  # sign extension fills the upper half
        np.left_shift(block, 13, out=block)  # 10 bits of mantissa become 23
        np.bitwise_and(block, np.int32(-0x7000_2000), out=block)  # sign, 5 bits of exponent, mantissa
        # The biases of the exponents are 15 and 127; the product is exact, also for subnormal numbers.
        block_floats = floats[start : start + _ELEMENTS_PER_BLOCK]
        np.multiply(block_floats, np.float32(2.0**112), out=block_floats)


def _has_non_finite(values: NDArray[Any]) -> bool:
    """Return whether float16 values include NaN or infinity (all bits of the exponent are set)."""
    return bool(values.size) and int((values.view(np.uint16) << 1).max()) >= 0xF800


@dataclass(frozen=True, slots=True)
class PartRead:
    """The entries to read from one part.

    Attributes:
        part: Name of the part.
        positions: Positions in the requested clips, (n,), in the order of their rows in the part.
        starts: First row of each entry, (n,).
        lengths: Number of rows of each entry, (n,).
    """

    part: str
    positions: Ints
    starts: Ints
    lengths: Ints


@dataclass
class EntryTable:
    """The entries of all parts, numbered in order.

    The columns are plain lists and dicts: looking up 132,000 clips must take a fraction of a second.

    Attributes:
        parts: Names of the parts, in order.
        first: Number of the first entry of each part.
        digests: Digest of the input of each entry.
        lengths: Number of rows of each entry.
        newest: Number of the last entry of each clip.
        older: Numbers of the earlier entries of clips with several, in order.
        arrays: Identities of the arrays of each part; see `PartAttributes`.
    """

    parts: list[str] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    newest: dict[str, int] = field(default_factory=dict)
    older: dict[str, list[int]] = field(default_factory=dict)
    arrays: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def add(self, name: str, part: PartAttributes) -> None:
        """Append the entries of the next part."""
        start = len(self.digests)
        if not self.newest.keys().isdisjoint(part.clip_id):
            for clip_id in self.newest.keys() & set(part.clip_id):
                self.older.setdefault(clip_id, []).append(self.newest[clip_id])
        if len(set(part.clip_id)) < len(part.clip_id):  # a clip has one entry for each of several digests
            last = {clip_id: entry for entry, clip_id in enumerate(part.clip_id)}
            for entry, clip_id in enumerate(part.clip_id):
                if entry < last[clip_id]:
                    self.older.setdefault(clip_id, []).append(start + entry)
        self.parts.append(name)
        self.arrays[name] = part.arrays
        self.first.append(start)
        self.digests.extend(part.digest)
        self.lengths.extend(part.length)
        self.newest.update(zip(part.clip_id, range(start, start + len(part.clip_id)), strict=True))

    def find(self, clip_id: str, digest: str) -> int:
        """Return the last entry of a clip that was computed from exactly this input, or -1."""
        entry = self.newest.get(clip_id, -1)
        if entry < 0 or self.digests[entry] == digest:
            return entry
        return next((older for older in reversed(self.older.get(clip_id, ())) if self.digests[older] == digest), -1)

    def entries(self, clip_ids: Sequence[str], digests: Mapping[str, str] | None) -> Ints:
        """Return the entry of each clip, (n,): that of the required digest, or the newest; -1 if there is none.

        Raises:
            TypeError: If ``clip_ids`` is one string, whose letters would be clips without features.
        """
        if isinstance(clip_ids, str):
            raise TypeError(f"clip_ids must be a list of clips, not the string {clip_ids!r}")
        if digests is None:
            return np.fromiter(map(self.newest.get, clip_ids, repeat(-1)), np.int64, len(clip_ids))
        # A clip without an input has no digest; no entry has the digest "".
        required = map(digests.get, clip_ids, repeat(""))
        return np.fromiter(map(self.find, clip_ids, required), np.int64, len(clip_ids))

    def rows(self, name: str) -> int:
        """Return the number of rows of a part, according to its attributes."""
        number = self.parts.index(name)
        first, end = [*self.first, len(self.lengths)][number : number + 2]
        return sum(self.lengths[first:end])

    def part_reads(self, entries: Ints) -> Iterator[PartRead]:
        """Yield the entries to read from each part that is needed.

        Args:
            entries: The entry of each requested clip, (n,); -1 for none.
        """
        positions = np.flatnonzero(entries >= 0)
        positions = positions[np.argsort(entries[positions], kind="stable")]
        edges = [*self.first, len(self.lengths)]
        cuts = np.searchsorted(entries[positions], edges)
        all_lengths = np.array(self.lengths, np.int64)
        for name, (first, end), (start, stop) in zip(self.parts, pairwise(edges), pairwise(cuts), strict=True):
            positions_in_part = positions[start:stop]
            if len(positions_in_part):
                lengths = all_lengths[first:end]
                starts = np.cumsum(lengths) - lengths
                indices = entries[positions_in_part] - first
                yield PartRead(name, positions_in_part, starts[indices], lengths[indices])
