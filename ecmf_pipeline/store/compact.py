"""Merge small parts and drop superfluous rows; safe to kill at any moment.

First each merged part is written next to the parts that it replaces, which it names in ``supersedes``: from then on
readers ignore them. Then the replaced parts are removed, each by one rename. Readers therefore find each row exactly
once at any time. A reader that misses a removed part refreshes and finds its rows in the merged part.
"""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Set
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
    array_names,
    distinct_versions,
    part_names,
    part_number,
    read_array,
    read_parts,
    settings_attributes,
    spool_folder,
    write_part,
)
from ecmf_pipeline.store.kept import KeptParts
from ecmf_pipeline.store.state import DigestLookup, RowState, folder_size, no_manifest, row_states
from ecmf_pipeline.store.verify import settings_findings
from ecmf_pipeline.store.writer import StoreWriter

MAX_PART_BYTES = 2**28
"""Maximum size of the values of a merged part: a part is read and written as a whole."""

ArrayTypes = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, type and row shape of each array of a part."""

Merge = Mapping[str, tuple[bool, ...]]
"""Parts to merge, by name, in order; for each part, which of its entries are kept."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """Result of compacting one settings group.

    Attributes:
        fingerprint: Fingerprint of the settings.
        parts: Number of parts before and after.
        bytes: Size of the parts before and after.
        dropped: Number of dropped rows, by their state.
        written: Size of the new parts.
    """

    fingerprint: str
    parts: tuple[int, int]
    bytes: tuple[int, int]
    dropped: Counter[RowState]
    written: int


def compact(
    writer: StoreWriter, digest_lookup: DigestLookup = no_manifest, *, part_size: int, drop_absent: bool = False
) -> Compaction:
    """Merge the parts of one settings group up to ``part_size``, and drop rows that others replace.

    Parts that need no change are left as they are. Rows are copied byte by byte.

    Args:
        writer: The writer of the store, which holds its lock.
        digest_lookup: Returns the digests of the current inputs; if it returns None, only duplicates are dropped.
        part_size: Maximum number of clips in a merged part.
        drop_absent: Whether rows of clips that are no longer in the manifest are dropped too.

    Raises:
        StoreError: If anything in the settings group is damaged; nothing is changed.
    """
    folder = writer.folder
    parts = read_parts(folder, writer.fingerprint)
    sizes_before = [folder_size(folder / name) for name in [*parts.intact, *parts.superseded]]
    _raise_if_damaged(writer, parts)
    attributes = settings_attributes(folder)
    states = row_states(parts.intact, digest_lookup(attributes["settings"], parts.newest()))
    dropped_states = {RowState.DUPLICATE, RowState.REPLACED} | ({RowState.ABSENT} if drop_absent else set())
    keep = {name: tuple(state not in dropped_states for state in part) for name, part in states.items()}
    dropped = Counter(state for part in states.values() for state in part if state in dropped_states)
    row_bytes = (attributes["dim"] or 0) * np.dtype(attributes["dtype"]).itemsize
    merges = plan_merges(folder, parts, keep, part_size=part_size, row_bytes=row_bytes)
    staging = writer.spool.folder
    staging.mkdir(parents=True, exist_ok=True)
    for name in parts.superseded:
        _remove(folder / name, staging)
    bar = progress(merges, f"compact {writer.root.stem}", unit="part")
    written = sum(_write_merged(merge, parts, writer) for merge in bar)
    emptied = [name for name, kept in keep.items() if not any(kept)]
    for name in [*chain.from_iterable(merges), *emptied]:
        _remove(folder / name, staging)
    sizes_after = [folder_size(folder / name) for name in read_parts(folder, writer.fingerprint).intact]
    return Compaction(
        writer.fingerprint,
        (len(sizes_before), len(sizes_after)),
        (sum(sizes_before), sum(sizes_after)),
        dropped,
        written,
    )


def drop_clips(writer: StoreWriter, clip_ids: Set[str]) -> int:
    """Drop all rows of some clips from one settings group, also from kept parts; return their number.

    Other rows are copied byte by byte into new parts. Kept parts that the group lacks are removed if they have such
    rows: their other rows are in the group, or are replaced.

    Args:
        writer: The writer of the store, which holds its lock.
        clip_ids: The clips.

    Raises:
        StoreError: If a part is damaged; nothing is changed.
    """
    folder = writer.folder
    parts = read_parts(folder, writer.fingerprint)
    for error in parts.damaged.values():
        raise error
    keep = {name: tuple(clip_id not in clip_ids for clip_id in part.clip_id) for name, part in parts.intact.items()}
    changed = [name for name, kept in keep.items() if not all(kept)]
    dropped = sum(kept.count(False) for kept in keep.values())
    staging = writer.spool.folder
    staging.mkdir(parents=True, exist_ok=True)
    for name in parts.superseded:
        _remove(folder / name, staging)
    for name in changed:
        if any(keep[name]):
            _write_merged({name: keep[name]}, parts, writer)
        _remove(folder / name, staging)
    kept_parts = KeptParts(folder)
    if kept_parts.folder is not None:
        stored = read_parts(kept_parts.folder, writer.fingerprint)
        outdated = {name for name, part in stored.intact.items() if not clip_ids.isdisjoint(part.clip_id)}
        kept_parts.drop(outdated | set(stored.superseded) | set(stored.damaged))
    return dropped


def plan_merges(
    folder: Path, parts: Parts, keep: Mapping[str, tuple[bool, ...]], *, part_size: int, row_bytes: int
) -> list[Merge]:
    """Choose which consecutive parts are merged.

    A part that only loses some of its rows is a merge of one part. Parts that lose all rows are in no merge.

    Args:
        folder: The settings group.
        parts: Its parts.
        keep: Which entries of each part are kept.
        part_size: Maximum number of clips in a merged part.
        row_bytes: Size of one row of values.
    """
    remaining = [name for name in parts.intact if any(keep[name])]
    clips = {name: sum(keep[name]) for name in remaining}
    size = {name: row_bytes * sum(compress(parts.intact[name].length, keep[name])) for name in remaining}
    types = {name: array_types(folder / name) for name in remaining}
    merged_names: list[list[str]] = [[]]
    # Parts with the same number (of runs that wrote independently) stay together: a merged part has one number, so no
    # other part can be ordered between them.
    for _, same_number in groupby(remaining, key=part_number):
        added = list(same_number)
        names = merged_names[-1] + added
        fits = sum(clips[name] for name in names) <= part_size and sum(size[name] for name in names) <= MAX_PART_BYTES
        if fits and len({types[name] for name in names}) == 1:
            merged_names[-1] = names
        else:
            merged_names.append(added if len({types[name] for name in added}) == 1 else [])
    merges = [{name: keep[name] for name in names} for names in merged_names]
    return [merge for merge in merges if len(merge) > 1 or not all(map(all, merge.values()))]


def array_types(part: Path) -> ArrayTypes:
    """Return name, type and row shape of the arrays of a part. Only parts with equal ones can be merged."""
    import zarr

    arrays = [(name, zarr.open_array(part / name, mode="r")) for name in array_names(part)]
    return tuple((name, str(array.dtype), tuple(array.shape[1:])) for name, array in arrays)


def drop_settings(writer: StoreWriter, fingerprint: str) -> None:
    """Remove the features and the spool of other settings than those of the writer."""
    staging = writer.spool.folder
    staging.mkdir(parents=True, exist_ok=True)
    for folder in (writer.root / fingerprint, spool_folder(writer.root, fingerprint)):
        if folder.is_dir():
            _remove(folder, staging)


def _raise_if_damaged(writer: StoreWriter, parts: Parts) -> None:
    _raise_first_damage(settings_findings(writer.root, writer.folder))
    for error in parts.damaged.values():
        raise error
    attributes = settings_attributes(writer.folder)
    check = PartCheck(writer.root, writer.folder, attributes["dim"], np.dtype(attributes["dtype"]))
    bar = progress(parts.intact.items(), f"check {writer.root.stem}", unit="part")
    _raise_first_damage(finding for name, part in bar for finding in check(name, part))


def _raise_first_damage(findings: Iterable[Finding]) -> None:
    for finding in findings:
        if finding.kind.is_damage:
            raise StoreError(
                f"{finding}; nothing was changed",
                "move the damaged parts out of the store; the next extraction computes its clips again",
                command=f"ecmf-pipe store verify --mend {finding.root}",
            )


def _write_merged(merge: Merge, parts: Parts, writer: StoreWriter) -> int:
    """Write one merged part and return its size in bytes."""
    entries = list(chain.from_iterable(merge.values()))
    sources = [parts.intact[name] for name in merge]
    attributes = PartAttributes(
        writer.fingerprint,
        list(compress(chain.from_iterable(part.clip_id for part in sources), entries)),
        list(compress(chain.from_iterable(part.digest for part in sources), entries)),
        list(compress(chain.from_iterable(part.length for part in sources), entries)),
        list(merge),
        distinct_versions(chain.from_iterable(part.versions or [{}] for part in sources)),
    )
    arrays: dict[str, NDArray[Any]] = {}
    for array in array_names(writer.folder / next(iter(merge))):
        pieces = []
        for (name, keep), part in zip(merge.items(), sources, strict=True):
            rows = read_array(writer.folder / name / array)
            pieces.append(rows if all(keep) else rows[np.repeat(np.array(keep), part.length)])
        arrays[array] = np.concatenate(pieces)
    number = part_number(list(merge)[-1])  # the last number: parts of later runs must be ordered after it
    name = write_part(writer.folder, number, attributes, arrays, staging=writer.spool.folder)
    KeptParts(writer.folder).keep([name])
    return folder_size(writer.folder / name)


def _remove(folder: Path, staging: Path) -> None:
    """Remove a folder from the store by one rename, then delete its files: readers never see half a part.

    What was kept of it is removed first. If the process is killed in between, the next writer deletes the rest.
    """
    if part_names(folder):
        KeptParts(folder).drop()
    else:
        KeptParts(folder.parent).drop([folder.name])
    renamed = staging / f"part-{uuid.uuid4().hex}"
    folder.rename(renamed)
    shutil.rmtree(renamed)
