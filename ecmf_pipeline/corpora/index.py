"""From a corpus listing to the clips of the manifest: digests, streams and lengths, reading only what has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ecmf_pipeline.clips import Clip, ClipId
from ecmf_pipeline.corpora.index_cache import IndexCache, Measured
from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind
from ecmf_pipeline.corpora.probe import probe_media
from ecmf_pipeline.errors import ClipError, FileUnreachable, UnreadableMedia
from ecmf_pipeline.files import sha256_file
from ecmf_pipeline.progress import progress_bar

BATCH = 256
"""Files handed to the threads at once: an interrupt waits for those under way only, and the queue stays small."""

SECONDS_BETWEEN_SAVES = 20.0
"""How much reading a killed run may lose; an interrupted one loses none."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A clip whose file cannot be used.

    Attributes:
        clip_id: The clip.
        reason: Class of the error.
        message: Its text.
        digest: SHA-256 of the file's bytes; empty when they could not be read.
    """

    clip_id: ClipId
    reason: str
    message: str
    digest: str


@dataclass(frozen=True, slots=True)
class IndexResult:
    """What `index` found.

    Attributes:
        clips: All clips of the listing, sorted by id. A quarantined one stays, without streams: its words can still be
            used, and a candidate must be predicted whatever its file is like.
        findings: What is odd: the listing's, then the files'.
        quarantined: Clips whose file cannot be used, sorted by id.
        hashed: Files that were read.
        reused: Files that had not changed.
    """

    clips: tuple[Clip, ...]
    findings: tuple[Finding, ...]
    quarantined: tuple[Quarantined, ...]
    hashed: int
    reused: int


@dataclass(frozen=True, slots=True)
class _File:
    """One file as it was when the scan came by."""

    path: str
    size: int
    mtime_ns: int


def index_corpus(listing: CorpusListing, cache_path: Path, *, workers: int) -> IndexResult:
    """Measure every file of a listing that is new or has changed (in size or time of change).

    Args:
        listing: What `readers.read_corpus` returned.
        cache_path: Where measurements are remembered; may be missing, damaged or deleted at will.
        workers: Threads that read files (hashing and opening containers both release the interpreter's lock).
    """
    cache = IndexCache(cache_path, listing.root)
    root = str(listing.root)
    measured: dict[str, Measured] = {}
    sizes: dict[str, int] = {}
    changed: list[_File] = []
    for clip in listing.clips:
        if not clip.path:
            continue
        try:
            status = os.stat(f"{root}/{clip.path}")  # noqa: PTH116  (a Path for each of 100,000 files takes seconds)
        except OSError as error:
            measured[clip.path] = _failure(error)
            continue
        sizes[clip.path] = status.st_size
        known = cache.get(clip.path, status.st_size, status.st_mtime_ns)
        if known is None:
            changed.append(_File(clip.path, status.st_size, status.st_mtime_ns))
        else:
            measured[clip.path] = known
    reused = len(sizes) - len(changed)
    measured |= _measure_all(listing.root, changed, cache, workers)
    clips = tuple(_measured_clip(clip, sizes, measured) for clip in listing.clips)
    quarantined = tuple(
        Quarantined(clip.clip_id, found.reason, found.message, found.digest)
        for clip in clips
        if (found := measured.get(clip.path)) and found.reason
    )
    findings = (*listing.findings, *_stream_findings(clips, measured), *_same_content(clips, measured))
    return IndexResult(clips, findings, quarantined, hashed=len(changed), reused=reused)


def _measure_all(root: Path, files: Sequence[_File], cache: IndexCache, workers: int) -> dict[str, Measured]:
    """Measure files in threads; whatever ends the run, what was measured is remembered."""
    executor = ThreadPoolExecutor(workers, thread_name_prefix="index")
    measured: dict[str, Measured] = {}
    saved = time.monotonic()
    try:
        with progress_bar("index", len(files), unit="file") as bar:
            for start in range(0, len(files), BATCH):
                batch = files[start : start + BATCH]
                for file, found in zip(batch, executor.map(lambda file: _measure(root, file), batch), strict=True):
                    if found.digest:
                        cache.put(file.path, file.size, file.mtime_ns, found)
                    bar.update()
                    measured[file.path] = found
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    cache.save()
                    saved = time.monotonic()
    finally:
        executor.shutdown(cancel_futures=True)
        cache.save()
    return measured


def _measure(root: Path, file: _File) -> Measured:
    """Hash and probe one file. Without a digest the failure may be gone the next time, and is not remembered."""
    path = root / file.path
    try:
        digest = sha256_file(path)
        try:
            if file.size == 0:
                raise UnreadableMedia("the file is empty (0 bytes)")
            probe = probe_media(path)
            found = Measured(digest, probe.duration, probe.has_video, probe.has_audio)
        except FileUnreachable as error:
            return Measured("", reason=error.reason, message=str(error))
        except ClipError as error:
            found = Measured(digest, reason=error.reason, message=str(error))
        status = path.stat()
    except OSError as error:
        return _failure(error)
    if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
        return Measured("", reason=FileUnreachable.__name__, message="the file changed while it was read: run again")
    return found


def _failure(error: OSError) -> Measured:
    why = "the file vanished after it was listed" if isinstance(error, FileNotFoundError) else str(error.strerror)
    return Measured("", reason=FileUnreachable.__name__, message=f"it cannot be read: {why}")


def _measured_clip(clip: Clip, sizes: dict[str, int], measured: dict[str, Measured]) -> Clip:
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
            message = f"{clip.path!r} has sound but no pictures: its global and face branches stay empty"
            yield Finding(FindingKind.NO_VIDEO_STREAM, clip.clip_id, message)


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
