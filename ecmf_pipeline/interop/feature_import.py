"""Import features from other programs into a store: valid features that are new or have changed."""

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
from ecmf_pipeline.corpora.listing import quote_names
from ecmf_pipeline.corpora.mer import find_prefix_mismatch
from ecmf_pipeline.interop.feature_sources import FeatureSource
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, can_hold, create_settings_group, has_fingerprint

CLIPS_PER_PART = 1024
BYTES_PER_PART = 2**26
LARGEST_VALUE = float(np.sqrt(np.finfo(np.float32).max))
"""Training squares features in float32. No encoder returns such values; they are damaged."""


@dataclass
class ImportReport:
    """The result of `import_features`.

    Attributes:
        dim: The feature dimension.
        new: Number of clips imported for the first time.
        changed: Number of clips whose features changed.
        reused: Number of clips whose features are unchanged.
        bad: The problem of each clip whose array is unusable; its earlier features remain.
        blank: Clips whose array is all zeros, which the baseline writes for clips without features. They get none.
        missing: Clips that the source does not contain.
        extra: Names that match no clip; they are not imported.
        skipped_names: Names of other files that were skipped.
    """

    dim: int = 0
    new: int = 0
    changed: int = 0
    reused: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    blank: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    skipped_names: list[str] = field(default_factory=list)


def import_features(
    source: FeatureSource, clip_ids: Sequence[str], root: Path, settings: Mapping[str, Any], *, dtype: str
) -> ImportReport:
    """Import the features of the clips of the manifest into a store.

    The digest of a row is the digest of its values as float32. Unchanged features are therefore stored once, and
    changed features get a new row, which replaces the earlier one. Finished parts are kept if the run is killed.

    Args:
        source: The source of the features.
        clip_ids: The clips of the manifest.
        root: The ``*.zarr`` folder of the modality.
        settings: The settings of the imported encoder (`Params.settings_of`).
        dtype: NumPy name of the stored data type.

    Raises:
        InputError: If no name matches a clip, no array is usable, or the arrays differ in dimension.
        StoreBusy: If another run is writing to the store.
    """
    report = ImportReport(skipped_names=source.skipped_names)
    names = _match_names(source, clip_ids, report)
    widths = _widths(source, names, report)
    stored = fingerprint(settings)
    known_dim = FeatureStore(root, stored).dim if has_fingerprint(root, stored) else None
    report.dim = known_dim or _common_width(source, widths, report)
    for clip_id, width in widths.items():
        if width != report.dim:
            report.bad[clip_id] = f"the array has dimension {width}, features imported earlier {report.dim}"
    usable = [clip_id for clip_id in names if widths.get(clip_id) == report.dim]
    if not usable:
        raise InputError(
            f"{source.path}: none of the {len(names)} arrays of clips is usable; {_first_errors(report)}",
            "correct the arrays; if they are of another encoder, import them with another --encoder name",
        )
    key = create_settings_group(root, settings, dim=report.dim, dtype=dtype)
    with StoreWriter(root, key) as writer:
        known = FeatureStore(root, key).digests()
        for rows in _group_into_parts(_new_rows(source, names, progress(usable, "import"), known, dtype, report)):
            writer.append(rows)
            for row in rows:
                report.changed += row.clip_id in known
                report.new += row.clip_id not in known
    return report


def _match_names(source: FeatureSource, clip_ids: Sequence[str], report: ImportReport) -> dict[str, str]:
    """Return the name in the source for each clip that it contains, in the order of the clips."""
    known, matched = set(clip_ids), dict[str, str]()
    for name in source.names:
        # macOS writes decomposed (NFD) file names; clip ids are composed (NFC).
        clip_id = name if name in known else unicodedata.normalize("NFC", name)
        if clip_id not in known:
            report.extra.append(name)
        elif clip_id in matched:
            report.bad[clip_id] = "the source has two arrays for the clip; remove one"
        else:
            matched[clip_id] = name
    report.missing = [clip_id for clip_id in clip_ids if clip_id not in matched]
    if not matched:
        source_names, clip_names = quote_names(report.extra, 2) or "none", quote_names(report.missing, 2) or "none"
        prefixes = "".join(
            f"; {finding.message}" for finding in find_prefix_mismatch(report.missing, set(report.extra))
        )
        raise InputError(
            f"{source.path}: none of its {len(source.names)} names is a clip of the manifest "
            f"(its names: {source_names}; clips: {clip_names}){prefixes}",
            "give the folder that contains the <name>.npy files, or an HDF5 file with one dataset per clip",
        )
    return {clip_id: matched[clip_id] for clip_id in clip_ids if clip_id in matched and clip_id not in report.bad}


def _widths(source: FeatureSource, names: Mapping[str, str], report: ImportReport) -> dict[str, int]:
    widths = {}
    for clip_id, name in names.items():
        try:
            widths[clip_id] = source.width(name)
        except UnusableFeatures as error:
            report.bad[clip_id] = error.message
    return widths


def _common_width(source: FeatureSource, widths: Mapping[str, int], report: ImportReport) -> int:
    """Return the feature dimension if all arrays agree; the most frequent one is not necessarily correct."""
    counts = Counter(widths.values())
    if len(counts) > 1:
        each = "; ".join(
            f"{count} have {width} ({quote_names([clip_id for clip_id in widths if widths[clip_id] == width], 2)})"
            for width, count in counts.most_common()
        )
        raise InputError(
            f"{source.path}: the arrays differ in dimension: {each}; nothing was imported",
            "keep the arrays of one encoder only",
        )
    if not counts:
        raise InputError(
            f"{source.path}: none of the arrays of clips is usable; {_first_errors(report)}",
            "give npy files or datasets of real numbers with shape (D,) or (T, D)",
        )
    return next(iter(counts))


def _new_rows(
    source: FeatureSource,
    names: Mapping[str, str],
    clip_ids: Iterable[str],
    known: Mapping[str, Sequence[str]],
    dtype: str,
    report: ImportReport,
) -> Iterator[FeatureRow]:
    """Yield the rows that the store does not hold yet."""
    for clip_id in clip_ids:
        try:
            values = _validated_rows(source.read(names[clip_id]), report.dim, dtype)
        except UnusableFeatures as error:
            report.bad[clip_id] = error.message
            continue
        if not values.any():
            if clip_id in known:
                report.bad[clip_id] = "the array is all zeros; the earlier features remain"
            else:
                report.blank.append(clip_id)
            continue
        content = hashlib.sha256(values.data).hexdigest()
        previous = known.get(clip_id, ())
        if previous and previous[-1].partition("-")[0] == content:
            report.reused += 1
            continue
        # If values return after a change, their new row needs another digest than their earlier row. The highest
        # number counts, because `store compact` may have dropped other rows.
        latest = max((_occurrence(digest) for digest in previous if digest.partition("-")[0] == content), default=0)
        yield FeatureRow(clip_id, f"{content}-{latest + 1}" if latest else content, values)


def _occurrence(digest: str) -> int:
    """Return the occurrence number of a digest: 1 without suffix, n for suffix ``-n``."""
    return int(digest.partition("-")[2] or 1)


def _validated_rows(array: NDArray[Any], dim: int, dtype: str) -> NDArray[np.float32]:
    """Validate an array and return it as rows, (T, D)."""
    if array.shape[-1] != dim:
        raise UnusableFeatures(f"the array has dimension {array.shape[-1]}, the others {dim}")
    if array.dtype.kind == "f" and (non_finite := int(np.size(array) - np.isfinite(array).sum())):
        raise UnusableFeatures(f"{non_finite} of {np.size(array)} values are NaN or infinite")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array.reshape(-1, dim), dtype="<f4")
    if not can_hold(values, dtype):
        raise UnusableFeatures(f"the largest value, {np.abs(array).max():g}, exceeds the range of {dtype}")
    if (largest := np.abs(values).max()) > LARGEST_VALUE:
        raise UnusableFeatures(f"the largest value, {largest:g}, exceeds {LARGEST_VALUE:g}: its square is not finite")
    return values


def _group_into_parts(rows: Iterable[FeatureRow]) -> Iterator[list[FeatureRow]]:
    part: list[FeatureRow] = []
    size = 0
    for row in rows:
        part.append(row)
        size += row.values.nbytes
        if len(part) == CLIPS_PER_PART or size >= BYTES_PER_PART:
            yield part
            part, size = [], 0
    if part:
        yield part


def _first_errors(report: ImportReport) -> str:
    return "; ".join(f"clip {clip_id!r}: {problem}" for clip_id, problem in list(report.bad.items())[:2])
