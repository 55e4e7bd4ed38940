"""Features from elsewhere into a store: only what is new or has changed, and nothing that is no features."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.console import progress
from ecmf_pipeline.core.errors import InputError, UnusableFeatures
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.corpora.listing import naming_some
from ecmf_pipeline.corpora.mer import find_prefix_mismatch
from ecmf_pipeline.interop.feature_sources import FeatureSource
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, can_hold, create_settings_group, has_fingerprint

CLIPS_A_PART = 1024
BYTES_A_PART = 2**26


@dataclass
class ImportReport:
    """What became of each clip and of each name.

    Attributes:
        bad: For each clip whose array cannot be used, why; its former features stay.
        blank: Clips whose array is nothing but zeros, the baseline's sign that it found nothing: they have no features.
        missing: Clips of which the source has nothing.
        extra: Names of no clip; they are not imported.
        passed_over: What stands beside the features and is none.
    """

    dim: int = 0
    new: int = 0
    changed: int = 0
    reused: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    blank: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)


def import_features(
    source: FeatureSource, clip_ids: Sequence[str], root: Path, settings: Mapping[str, Any], *, dtype: str
) -> ImportReport:
    """Take the features of the manifest's clips into a store.

    A row's digest is that of its values (as float32), so that what is imported twice is kept once, and what has
    changed gets a new row, which counts from then on. What is done is kept when a run is killed.

    Args:
        source: The features.
        clip_ids: The manifest's clips.
        root: The ``*.zarr`` folder of the modality.
        settings: Those of the imported encoder (`Params.settings_of`).
        dtype: NumPy name of the stored type.

    Raises:
        InputError: When no name is a clip's, no array can be used, or arrays differ in width.
        StoreBusy: When another run writes to the store.
    """
    report = ImportReport(passed_over=source.passed_over)
    names = _match(source, clip_ids, report)
    widths = _widths(source, names, report)
    stored = fingerprint(settings)
    known_dim = FeatureStore(root, stored).dim if has_fingerprint(root, stored) else None
    report.dim = known_dim or _common_width(source, widths, report)
    for clip_id, width in widths.items():
        if width != report.dim:
            report.bad[clip_id] = f"it is {width} wide; what was imported before is {report.dim} wide"
    good = [clip_id for clip_id in names if widths.get(clip_id) == report.dim]
    if not good:
        raise InputError(
            f"none of the {len(names)} arrays of clips in {source.path} can be used; {_first_bad(report)}",
            "mend them, or import them under another --encoder name if they are of another encoder",
        )
    key = create_settings_group(root, settings, dim=report.dim, dtype=dtype)
    with StoreWriter(root, key) as writer:
        known = FeatureStore(root, key).digests()
        for rows in _in_parts(_rows(source, names, progress(good, "import"), known, dtype, report)):
            writer.append(rows)
            for row in rows:
                report.changed += row.clip_id in known
                report.new += row.clip_id not in known
    return report


def _match(source: FeatureSource, clip_ids: Sequence[str], report: ImportReport) -> dict[str, str]:
    """The source's name of each clip that it has, in the order of the clips."""
    known, found = set(clip_ids), dict[str, str]()
    for name in source.names:
        # macOS writes file names with their accents apart; clip ids have them composed.
        clip_id = name if name in known else unicodedata.normalize("NFC", name)
        if clip_id not in known:
            report.extra.append(name)
        elif clip_id in found:
            report.bad[clip_id] = "it stands there twice: remove one"
        else:
            found[clip_id] = name
    report.missing = [clip_id for clip_id in clip_ids if clip_id not in found]
    if not found:
        theirs, ours = naming_some(report.extra, 2) or "none", naming_some(report.missing, 2) or "none"
        prefixes = "".join(
            f"\n  {finding.message}" for finding in find_prefix_mismatch(report.missing, set(report.extra))
        )
        raise InputError(
            f"none of the {len(source.names)} names in {source.path} is a clip of the manifest "
            f"(it has {theirs}, the manifest {ours})",
            f"give the folder that holds <name>.npy itself, or an HDF5 file with one dataset a clip{prefixes}",
        )
    return {clip_id: found[clip_id] for clip_id in clip_ids if clip_id in found and clip_id not in report.bad}


def _widths(source: FeatureSource, names: Mapping[str, str], report: ImportReport) -> dict[str, int]:
    widths = {}
    for clip_id, name in names.items():
        try:
            widths[clip_id] = source.width(name)
        except UnusableFeatures as error:
            report.bad[clip_id] = str(error)
    return widths


def _common_width(source: FeatureSource, widths: Mapping[str, int], report: ImportReport) -> int:
    """D, when all agree: which of several is right cannot be told by counting."""
    counts = Counter(widths.values())
    if len(counts) > 1:
        each = "; ".join(
            f"{count} are {width} wide ({naming_some([clip_id for clip_id in widths if widths[clip_id] == width], 2)})"
            for width, count in counts.most_common()
        )
        raise InputError(
            f"the arrays in {source.path} differ in width: {each}",
            "features of one encoder have one width: move those of others away; nothing was imported",
        )
    if not counts:
        raise InputError(
            f"none of the arrays of clips in {source.path} can be used; {_first_bad(report)}",
            "they are to be npy files or datasets of real numbers, (D,) or (T, D)",
        )
    return next(iter(counts))


def _rows(
    source: FeatureSource,
    names: Mapping[str, str],
    clip_ids: Iterable[str],
    known: Mapping[str, Sequence[str]],
    dtype: str,
    report: ImportReport,
) -> Iterator[FeatureRow]:
    """The rows that the store lacks."""
    for clip_id in clip_ids:
        try:
            values = _usable(source.read(names[clip_id]), report.dim, dtype)
        except UnusableFeatures as error:
            report.bad[clip_id] = str(error)
            continue
        if not values.any():
            if clip_id in known:
                report.bad[clip_id] = "it holds nothing but zeros; the features that it had stay"
            else:
                report.blank.append(clip_id)
            continue
        content = hashlib.sha256(values.data).hexdigest()
        former = known.get(clip_id, ())
        if former and former[-1].partition("-")[0] == content:
            report.reused += 1
            continue
        # Values that come back after others were there: the row must be told from the one that they superseded.
        # Numbered by the highest so far, for `store compact` may have dropped the others.
        times = max((_times(digest) for digest in former if digest.partition("-")[0] == content), default=0)
        yield FeatureRow(clip_id, f"{content}-{times + 1}" if times else content, values)


def _times(digest: str) -> int:
    """The how-manieth time it is that a clip has the values of this digest."""
    return int(digest.partition("-")[2] or 1)


def _usable(array: NDArray[Any], dim: int, dtype: str) -> NDArray[np.float32]:
    """An array as rows, (T, D)."""
    if array.shape[-1] != dim:
        raise UnusableFeatures(f"it is {array.shape[-1]} wide, the others are {dim} wide")
    if array.dtype.kind == "f" and (odd := int(np.size(array) - np.isfinite(array).sum())):
        raise UnusableFeatures(f"{odd} of its {np.size(array)} values are NaN or infinite")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array.reshape(-1, dim), dtype="<f4")
    if not can_hold(values, dtype):
        raise UnusableFeatures(f"its largest value, {np.abs(array).max():g}, is beyond {dtype}")
    return values


def _in_parts(rows: Iterable[FeatureRow]) -> Iterator[list[FeatureRow]]:
    part: list[FeatureRow] = []
    size = 0
    for row in rows:
        part.append(row)
        size += row.values.nbytes
        if len(part) == CLIPS_A_PART or size >= BYTES_A_PART:
            yield part
            part, size = [], 0
    if part:
        yield part


def _first_bad(report: ImportReport) -> str:
    return "; ".join(f"{clip_id!r}: {why}" for clip_id, why in list(report.bad.items())[:2])
