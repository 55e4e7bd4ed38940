"""From a corpus listing to the clips of the manifest: digests, streams and lengths, reading only what has changed."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, write_manifest
from ecmf_pipeline.core.console import progress_bar
from ecmf_pipeline.core.files import write_csv, write_json
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind, count_by_kind
from ecmf_pipeline.corpora.measuring import (
    CacheWriter,
    File,
    IndexCache,
    Measured,
    Measurements,
    failure,
    measure_files,
    unreachable,
)
from ecmf_pipeline.runner.quarantine import Quarantine

SECONDS_BETWEEN_SAVES = 20.0
"""The cache is written whole; what was read since stands in the spool meanwhile."""


@dataclass(frozen=True, slots=True)
class IndexResult:
    """What `index` found.

    Attributes:
        clips: All clips of the listing, sorted by id. A quarantined one stays, without streams: its words can still be
            used, and a candidate must be predicted whatever its file is like.
        findings: What is odd: the listing's, then the files'.
        quarantined: What was found of the clips whose file cannot be used, sorted by clip id.
    """

    clips: tuple[Clip, ...]
    findings: tuple[Finding, ...]
    quarantined: Mapping[ClipId, Measured]
    hashed: int
    reused: int


def index_corpus(
    listing: CorpusListing, cache_path: Path, *, workers: int | None = None, clip_timeout: float = 60.0
) -> IndexResult:
    """Measure every file of a listing that is new or has changed (in size or time of change).

    Args:
        listing: What `registry.read_corpus` returned.
        cache_path: Where measurements are remembered; may be missing, damaged or deleted at will.
        workers: Processes that read files; None is one for each core, fewer where there is little to read; 0 reads in
            this process, where a file at which the demuxer crashes ends the run.
        clip_timeout: Seconds that one file may take. One that takes longer, twice, is quarantined.

    Raises:
        StoreBusy: When another run is measuring files for the same cache.
    """
    cache = IndexCache(cache_path, listing.root, clip_timeout)
    measured, sizes, changed = _look_up(listing, cache)
    if changed:
        with CacheWriter(cache) as writer:
            if writer.adopted:
                measured, sizes, changed = _look_up(listing, cache)
            found = measure_files(listing.root, changed, writer, workers=workers, clip_timeout=clip_timeout)
            measured |= _measure_all(writer, found, len(changed))
    reused = len(sizes) - len(changed)
    clips = tuple(_measured_clip(clip, sizes, measured) for clip in listing.clips)
    quarantined = {clip.clip_id: bad for clip in clips if (bad := measured.get(clip.path)) is not None and bad.reason}
    findings = (*listing.findings, *_stream_findings(clips, measured), *_same_content(clips, measured))
    return IndexResult(clips, findings, quarantined, hashed=len(changed), reused=reused)


def write_index(listing: CorpusListing, result: IndexResult, quarantine: Quarantine) -> bool:
    """Write `last_scan.OUTPUTS`: the quarantine table, the corpus, the findings, the metrics and the manifest.

    Returns:
        Whether the manifest has changed.
    """
    quarantine.keep_only({clip_id: found.digest for clip_id, found in result.quarantined.items()})
    for clip_id, found in result.quarantined.items():
        quarantine.add(clip_id, found.reason, found.message, found.digest)
    quarantine.write()
    corpus = {
        "candidates": list(listing.candidate_order),
        "labels": list(listing.labels),
        "synthetic": listing.synthetic,
    }
    write_json(paths.CORPUS, corpus)
    rows = ([finding.kind, finding.clip_id, finding.message, finding.count] for finding in result.findings)
    write_csv(paths.FINDINGS, ["kind", "clip_id", "message", "count"], rows)
    write_json(paths.INDEX_METRICS, {**_counts(result.clips), "findings": count_by_kind(result.findings)})
    return write_manifest(paths.MANIFEST, result.clips)


def summary_of(result: IndexResult, labels: Sequence[str], *, read: int, changed: bool) -> str:
    """Say what was found and whether the manifest changed; the user's own labels are listed, so that typos are seen."""
    counts = _counts(result.clips)
    own = "" if set(labels) <= set(MER_LABELS) else f"; labels: {', '.join(labels)}"
    lines = [
        f"index: {counts['clips']} clips ({counts['train']} train, {counts['candidate']} candidate, "
        f"{counts['unlabeled']} unlabeled), {read} files read, {len(result.quarantined)} quarantined; "
        f"manifest {'written' if changed else 'unchanged'}{own}"
    ]
    found = count_by_kind(result.findings).items()
    return "\n".join([*lines, *(f"  {kind}: {count} (see {paths.FINDINGS})" for kind, count in found)])


def _counts(clips: Sequence[Clip]) -> dict[str, int]:
    splits = Counter(clip.split.value for clip in clips)
    return {"clips": len(clips), **{split: splits[split] for split in ("train", "candidate", "unlabeled")}}


def _look_up(listing: CorpusListing, cache: IndexCache) -> tuple[dict[str, Measured], dict[str, int], list[File]]:
    """What is known of the files, or that they cannot be looked at; their sizes; those that must be read."""
    root = str(listing.root)
    measured: dict[str, Measured] = {}
    sizes: dict[str, int] = {}
    changed: list[File] = []
    for path in filter(None, (path for clip in listing.clips for path in (clip.path, clip.face_path))):
        try:
            status = os.stat(f"{root}/{path}")  # noqa: PTH116  (a Path for each of 100,000 files takes seconds)
        except OSError as error:
            measured[path] = failure(unreachable(error))
            continue
        sizes[path] = status.st_size
        known = cache.get(path, status.st_size, status.st_mtime_ns)
        if known is None:
            changed.append(File(path, status.st_size, status.st_mtime_ns))
        else:
            measured[path] = known
    return measured, sizes, changed


def _measure_all(writer: CacheWriter, found: Measurements, total: int) -> dict[str, Measured]:
    """Take in what is found; whatever ends the run, the batches that were done are remembered."""
    measured: dict[str, Measured] = {}
    saved = time.monotonic()
    try:
        with progress_bar("index", total, unit="file") as bar, closing(found):  # an interrupt ends the workers first
            for path, measurement in found:
                measured[path] = measurement
                bar.update()
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    writer.save()
                    saved = time.monotonic()
    finally:
        writer.save()
    return measured


def _measured_clip(clip: Clip, sizes: dict[str, int], measured: dict[str, Measured]) -> Clip:
    crops = measured.get(clip.face_path)
    if crops is not None:
        clip = replace(clip, face_digest=crops.digest, face_bytes=sizes.get(clip.face_path, 0))
    found = measured.get(clip.path)
    if found is None:
        return clip
    return replace(
        clip,
        digest=found.digest,
        bytes=sizes.get(clip.path, 0),
        duration=found.duration,
        has_video=found.has_video,
        has_audio=found.has_audio,
    )


def _stream_findings(clips: Sequence[Clip], measured: dict[str, Measured]) -> Iterator[Finding]:
    for clip in clips:
        if clip.path and not clip.has_video and not measured[clip.path].reason:
            stay = "global branch stays" if clip.face_digest else "global and face branches stay"
            message = f"{clip.path!r} has sound but no pictures: its {stay} empty"
            yield Finding(FindingKind.NO_VIDEO_STREAM, clip.clip_id, message)
        if clip.face_path and (found := measured[clip.face_path]).reason:
            message = f"{clip.face_path!r} is passed over, and the clip's face branch stays empty: {found.message}"
            yield Finding(FindingKind.UNREADABLE, clip.clip_id, message)


def _same_content(clips: Sequence[Clip], measured: dict[str, Measured]) -> Iterator[Finding]:
    first: dict[str, Clip] = {}
    for clip in clips:
        if not clip.digest or measured[clip.path].reason:
            continue
        other = first.setdefault(clip.digest, clip)
        if other is not clip:
            message = (
                f"{clip.path!r} ({clip.split}) has the same bytes as {other.path!r} ({other.split}): in both training "
                "and evaluation, a clip makes scores too good"
            )
            yield Finding(FindingKind.DUPLICATE_CONTENT, clip.clip_id, message)
