"""Merges small parts and drops superfluous rows; killed at any moment, nothing is lost or doubled.

First every merged part is written beside those it replaces, naming them in ``supersedes``: from that moment on readers
pass them over. Only then are the replaced parts removed, each in one step. So at every moment the rows stand exactly
once for a reader, and one who lost a part under his feet finds all merged ones when he looks again.
"""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, compress, groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.console import progress
from ecmf_pipeline.core.errors import StoreError
from ecmf_pipeline.store.damage import Finding, PartCheck
from ecmf_pipeline.store.format import (
    PartAttributes,
    Parts,
    all_versions,
    array_names,
    part_number,
    read_array,
    read_parts,
    settings_attributes,
    spool_folder,
    write_part,
)
from ecmf_pipeline.store.state import Present, RowState, no_manifest, row_states, size_of
from ecmf_pipeline.store.verify import settings_findings
from ecmf_pipeline.store.writer import StoreWriter

BYTES_A_PART = 2**28
"""Parts are not merged beyond this size of their values: a part is read, and was written, in one piece."""

ArrayTypes = tuple[tuple[str, str, tuple[int, ...]], ...]
"""The name, the type and the shape of one row of each array of a part."""


Merge = Mapping[str, tuple[bool, ...]]
"""Parts that become one, by name, in order: for each of them, which of its entries stay."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """What became of a settings group.

    Attributes:
        fingerprint: Of the settings.
        parts: How many parts there were, and are.
        bytes: How many bytes they had, and have.
        dropped: Rows that were dropped, by what they were.
        written: Bytes of the parts that are new.
    """

    fingerprint: str
    parts: tuple[int, int]
    bytes: tuple[int, int]
    dropped: Counter[RowState]
    written: int


def compact(
    writer: StoreWriter, present: Present = no_manifest, *, part_size: int, drop_absent: bool = False
) -> Compaction:
    """Merge the parts of one settings group as far as ``part_size`` allows, and drop rows that others replace.

    Parts that need nothing are not touched. Rows are copied byte by byte.

    Args:
        writer: Holds the store.
        present: Tells what the manifest says of each clip; what it cannot tell is kept.
        part_size: Clips in one part at most.
        drop_absent: Whether rows of clips that the manifest no longer has are dropped too.

    Raises:
        StoreError: When anything in the settings group is damaged; nothing was changed then.
    """
    folder = writer.folder
    parts = read_parts(folder, writer.fingerprint)
    before = [size_of(folder / name) for name in [*parts.sound, *parts.superseded]]
    _refuse_damage(writer, parts)
    attributes = settings_attributes(folder)
    states = row_states(parts.sound, present(attributes["settings"], parts.newest()))
    dropping = {RowState.DUPLICATE, RowState.REPLACED} | ({RowState.ABSENT} if drop_absent else set())
    keep = {name: tuple(state not in dropping for state in part) for name, part in states.items()}
    dropped = Counter(state for part in states.values() for state in part if state in dropping)
    row_bytes = (attributes["dim"] or 0) * np.dtype(attributes["dtype"]).itemsize
    merges = plan_merges(folder, parts, keep, part_size=part_size, row_bytes=row_bytes)
    aside = writer.spool.folder
    aside.mkdir(parents=True, exist_ok=True)
    for name in parts.superseded:
        _remove(folder / name, aside)
    bar = progress(merges, f"compact {writer.root.stem}", unit="part")
    written = sum(_write(merge, parts, writer) for merge in bar)
    emptied = [name for name, kept in keep.items() if not any(kept)]
    for name in [*chain.from_iterable(merges), *emptied]:
        _remove(folder / name, aside)
    after = [size_of(folder / name) for name in read_parts(folder, writer.fingerprint).sound]
    return Compaction(writer.fingerprint, (len(before), len(after)), (sum(before), sum(after)), dropped, written)


def plan_merges(
    folder: Path, parts: Parts, keep: Mapping[str, tuple[bool, ...]], *, part_size: int, row_bytes: int
) -> list[Merge]:
    """Which neighbours become one part; one part alone where it only loses rows; not those that lose all."""
    left = [name for name in parts.sound if any(keep[name])]
    clips = {name: sum(keep[name]) for name in left}
    size = {name: row_bytes * sum(compress(parts.sound[name].length, keep[name])) for name in left}
    types = {name: array_types(folder / name) for name in left}
    together: list[list[str]] = [[]]
    # Parts of one number (of runs that did not know of each other) stay together: nothing can stand between them.
    for _, unit in groupby(left, key=part_number):
        added = list(unit)
        names = together[-1] + added
        fits = sum(clips[name] for name in names) <= part_size and sum(size[name] for name in names) <= BYTES_A_PART
        if fits and len({types[name] for name in names}) == 1:
            together[-1] = names
        else:
            together.append(added if len({types[name] for name in added}) == 1 else [])
    merges = [{name: keep[name] for name in names} for names in together]
    return [merge for merge in merges if len(merge) > 1 or not all(map(all, merge.values()))]


def array_types(part: Path) -> ArrayTypes:
    """The arrays of a part: only parts of the same ones can become one."""
    import zarr

    arrays = [(name, zarr.open_array(part / name, mode="r")) for name in array_names(part)]
    return tuple((name, str(array.dtype), tuple(array.shape[1:])) for name, array in arrays)


def drop_settings(writer: StoreWriter, fingerprint: str) -> None:
    """Remove all that a store holds of other settings than those of its writer."""
    aside = writer.spool.folder
    aside.mkdir(parents=True, exist_ok=True)
    for folder in (writer.root / fingerprint, spool_folder(writer.root, fingerprint)):
        if folder.is_dir():
            _remove(folder, aside)


def _refuse_damage(writer: StoreWriter, parts: Parts) -> None:
    _raise_damage(settings_findings(writer.root, writer.folder))
    for error in parts.damaged.values():
        raise error
    attributes = settings_attributes(writer.folder)
    check = PartCheck(writer.root, writer.folder, attributes["dim"], np.dtype(attributes["dtype"]))
    bar = progress(parts.sound.items(), f"check {writer.root.stem}", unit="part")
    _raise_damage(finding for name, part in bar for finding in check(name, part))


def _raise_damage(findings: Iterable[Finding]) -> None:
    for finding in findings:
        if finding.kind.is_damage:
            raise StoreError(f"{finding}; nothing was changed", finding.mend)


def _write(merge: Merge, parts: Parts, writer: StoreWriter) -> int:
    """Write one merged part and tell its bytes."""
    entries = list(chain.from_iterable(merge.values()))
    sources = [parts.sound[name] for name in merge]
    attributes = PartAttributes(
        writer.fingerprint,
        list(compress(chain.from_iterable(part.clip_id for part in sources), entries)),
        list(compress(chain.from_iterable(part.digest for part in sources), entries)),
        list(compress(chain.from_iterable(part.length for part in sources), entries)),
        list(merge),
        all_versions(chain.from_iterable(part.versions or [{}] for part in sources)),
    )
    arrays: dict[str, NDArray[Any]] = {}
    for array in array_names(writer.folder / next(iter(merge))):
        pieces = []
        for (name, keep), part in zip(merge.items(), sources, strict=True):
            rows = read_array(writer.folder / name / array)
            pieces.append(rows if all(keep) else rows[np.repeat(np.array(keep), part.length)])
        arrays[array] = np.concatenate(pieces)
    number = part_number(list(merge)[-1])  # the next run's parts come after all that was replaced, in name as in time
    return size_of(writer.folder / write_part(writer.folder, number, attributes, arrays, aside=writer.spool.folder))


def _remove(folder: Path, aside: Path) -> None:
    """Remove a folder in one step: half a part must not be seen. What a kill leaves is removed by the next writer."""
    gone = aside / f"part-{uuid.uuid4().hex}"
    folder.rename(gone)
    shutil.rmtree(gone)
