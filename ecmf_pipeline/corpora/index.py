"""Index a corpus listing: add digest, streams and duration to its clips, and read only new and changed files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Split, content_digest, write_corpus_tables
from ecmf_pipeline.core.console import format_count, progress_bar
from ecmf_pipeline.core.errors import WrongLength, clip_error
from ecmf_pipeline.core.files import FileState, write_sealed_json
from ecmf_pipeline.core.tables import as_spreadsheet_text, write_sealed_csv
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.languages import count_languages, translation_language
from ecmf_pipeline.corpora.lengths import spans_past_end, wrong_lengths
from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind, count_by_kind, quote_names
from ecmf_pipeline.corpora.measuring import (
    CacheWriter,
    FileToMeasure,
    IndexCache,
    Measurement,
    Measurements,
    failure,
    measure_files,
    unreachable,
)
from ecmf_pipeline.corpora.scan import is_sound_file
from ecmf_pipeline.corpora.words import add_words, subtitle_findings
from ecmf_pipeline.runner.quarantine import Quarantine

SECONDS_BETWEEN_SAVES = 20.0
"""Saving rewrites the whole cache; until then the spool holds the new measurements."""

SHOWN_FINDINGS = 5
"""Maximum number of findings that `index` prints."""


@dataclass(frozen=True, slots=True)
class IndexResult:
    """The result of `index_corpus`.

    Attributes:
        clips: All clips of the listing, sorted by id. A quarantined clip is included, without streams: its transcript
            is still usable, and each candidate needs a prediction.
        findings: The findings of the listing, then those of the files.
        quarantined: The measurement of each clip whose file is unusable, sorted by clip id.
        hashed: How many files were read.
        reused: How many measurements came from the cache.
        is_final: Whether another run would read the same: no file failed for a reason outside of its content.
    """

    clips: tuple[Clip, ...]
    findings: tuple[Finding, ...]
    quarantined: Mapping[ClipId, Measurement]
    hashed: int
    reused: int
    is_final: bool = True


def index_corpus(
    listing: CorpusListing, cache_path: Path, *, workers: int | None = None, clip_timeout: float = 60.0
) -> IndexResult:
    """Measure each file of a listing that is new or has changed: its size, times or inode.

    Args:
        listing: The result of `registry.read_corpus`.
        cache_path: The cache of measurements. It may be missing, damaged or deleted.
        workers: Number of worker processes. None: one for each core, fewer for few files. 0: read in this process,
            which ends if the demuxer crashes.
        clip_timeout: Seconds allowed for one file. A file that exceeds it twice is quarantined.

    Raises:
        StoreBusy: If another run is measuring files for the same cache.
    """
    files = _Files(listing.root, IndexCache(cache_path, listing.root, clip_timeout), workers, clip_timeout)
    beside = {clip_id: file.path for clip_id, file in listing.subtitles.items()}
    files.measure(path for clip in listing.clips for path in (clip.path, clip.face_path, beside.get(clip.clip_id, "")))
    measured, sizes = files.measured, files.sizes
    # The sound files of other clips are not read: MER has one for each clip.
    files.measure(clip.audio_path for clip in listing.clips if clip.audio_path and not measured[clip.path].has_audio)
    lengths = list(wrong_lengths(listing, measured))
    if listing.quarantines_wrong_length:
        measured |= {path: failure(WrongLength(found.message), measured[path].digest) for path, found in lengths}
    clips = tuple(
        add_words(_measured_clip(clip, sizes, measured), measured, listing.subtitles) for clip in listing.clips
    )
    quarantined = {
        clip.clip_id: measurement
        for clip in clips
        if (measurement := measured.get(clip.path)) is not None and measurement.reason
    }
    found = (finding for _, finding in lengths)
    findings = (
        *listing.findings,
        *found,
        *spans_past_end(clips, measured),
        *_outdated_segments(listing, measured),
        *_stream_findings(clips, measured),
        *_sound_findings(listing.clips, measured),
        *subtitle_findings(listing, measured),
        *_content_duplicates(clips, measured),
    )
    return IndexResult(
        clips,
        findings,
        quarantined,
        hashed=files.hashed,
        reused=len(sizes) - files.hashed,
        is_final=not any(map(_may_change, measured.values())),
    )


def write_index(listing: CorpusListing, result: IndexResult, quarantine: Quarantine) -> bool:
    """Write `last_scan.OUTPUTS`: the quarantine table, corpus description, findings, votes, metrics and manifest.

    Returns:
        Whether the manifest changed.
    """
    quarantine.drop_outdated({clip_id: measurement.digest for clip_id, measurement in result.quarantined.items()})
    for clip_id, measurement in result.quarantined.items():
        quarantine.add(clip_id, measurement.reason, measurement.message, measurement.digest, measurement.limit)
    quarantine.write()
    rows = (
        [finding.kind, *map(as_spreadsheet_text, (finding.clip_id, finding.message)), finding.count]
        for finding in result.findings
    )
    write_sealed_csv(paths.FINDINGS, ["kind", "clip_id", "message", "count"], rows)
    write_sealed_csv(paths.CORPUS_VOTES, *_vote_rows(listing))
    metrics = {**_counts(result.clips), **_language_counts(result.clips), "findings": count_by_kind(result.findings)}
    write_sealed_json(paths.INDEX_METRICS, {**metrics, "splits": describe_splits(listing)})
    return write_corpus_tables(
        Corpus([*result.clips], [*listing.labels], [*listing.candidate_order], synthetic=listing.synthetic)
    )


def _vote_rows(listing: CorpusListing) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the votes of the corpus, in the format of ``vote.sources``; without votes no rows."""
    header = ["clip_id", "source", *(f"p_{label}" for label in listing.labels)]
    return header, [
        [as_spreadsheet_text(clip_id), source, *(f"{probs.get(label, 0.0):.6g}" for label in listing.labels)]
        for source, votes in sorted(listing.votes.items())
        for clip_id, probs in sorted(votes.items())
    ]


def describe_splits(listing: CorpusListing) -> str:
    """Describe the groups and splits of a published corpus; empty for others."""
    if not listing.splits:
        return ""
    groups = len({clip.group for clip in listing.clips if clip.group})
    folds = "folds by group" if groups else "groups unknown: folds by label"
    return f"{format_count(groups, 'group')} ({listing.groups}); {listing.splits}, {folds}"


def format_index_summary(
    result: IndexResult, labels: Sequence[str], *, read: int, changed: bool, splits: str = ""
) -> str:
    """Format the lines that `index` prints: a summary, then at most `SHOWN_FINDINGS` findings.

    Labels other than MER's are listed, so that the user can spot a typing error among them.

    Args:
        result: The clips and findings.
        labels: The classes.
        read: How many files this run read.
        changed: Whether the manifest changed.
        splits: The groups and splits of a published corpus; see `describe_splits`.
    """
    counts = _counts(result.clips)
    custom_labels = "" if set(labels) <= set(MER_LABELS) else f"; labels: {', '.join(labels)}"
    summary = (
        f"index: {format_count(counts['clips'], 'clip')} ({counts['train']} train, {counts['candidate']} candidate, "
        f"{counts['unlabeled']} unlabeled), {format_count(read, 'file')} read, {len(result.quarantined)} quarantined; "
        f"manifest {'written' if changed else 'unchanged'}{custom_labels}"
    )
    shown = select_findings(result.findings, SHOWN_FINDINGS)
    lines = [summary, *(f"  {finding.message}" for finding in shown)]
    lines[1:1] = [f"  {text}" for text in (splits, _sound_only(result.clips)) if text]
    if hidden := len(result.findings) - len(shown):
        lines.append(f"  ... and {hidden} more in {paths.FINDINGS}")
    return "\n".join(lines)


def select_findings(findings: Iterable[Finding], count: int) -> list[Finding]:
    """Return the first ``count`` findings; each kind is selected once before any kind is selected again."""
    occurrences: Counter[FindingKind] = Counter()
    ranked: list[tuple[int, Finding]] = []
    for finding in findings:
        ranked.append((occurrences[finding.kind], finding))
        occurrences[finding.kind] += 1
    ranked.sort(key=itemgetter(0))  # stable: findings of the same rank keep their order
    return [finding for _, finding in ranked[:count]]


def _counts(clips: Sequence[Clip]) -> dict[str, int]:
    splits = Counter(clip.split.value for clip in clips)
    return {"clips": len(clips), **{split: splits[split] for split in ("train", "candidate", "unlabeled")}}


def _language_counts(clips: Sequence[Clip]) -> dict[str, Any]:
    languages = count_languages([clip.language for clip in clips])
    return {"languages": languages, "translation_language": translation_language(clips)}


def _sound_only(clips: Sequence[Clip]) -> str:
    """Return a line about the clips with sound and without pictures; empty if there are none."""
    count = sum(clip.has_audio and not clip.has_video and not clip.face_digest for clip in clips)
    with_media = sum(clip.has_audio or clip.has_video for clip in clips)
    if not count:
        return ""
    of_all = "" if count == with_media else f"{count} of {format_count(with_media, 'clip')}: "
    return f"{of_all}sound only, no global and no face features"


def _may_change(measurement: Measurement) -> bool:
    """Return whether another run may read the file although it is the same."""
    error = clip_error(measurement.reason)
    return bool(measurement.reason) and (error.is_transient or error.is_version_bound)


class _Files:
    """Measure files of a corpus folder, each once.

    Attributes:
        measured: The measurement of each path, including failures to stat.
        sizes: The size of each path in bytes.
        hashed: How many files were read.
    """

    def __init__(self, root: Path, cache: IndexCache, workers: int | None, clip_timeout: float) -> None:
        self.measured: dict[str, Measurement] = {"": Measurement("")}
        self.sizes: dict[str, int] = {}
        self.hashed = 0
        self._root, self._cache, self._workers, self._clip_timeout = root, cache, workers, clip_timeout

    def measure(self, paths: Iterable[str]) -> None:
        """Look the files up in the cache, and read those that are new or have changed."""
        wanted = [path for path in dict.fromkeys(paths) if path not in self.measured]
        if not (changed := self._look_up(wanted)):
            return
        with CacheWriter(self._cache) as writer:
            if writer.adopted:
                changed = self._look_up(wanted)
            results = measure_files(self._root, changed, writer, workers=self._workers, clip_timeout=self._clip_timeout)
            self.measured |= _measure_all(writer, results, len(changed))
        self.hashed += len(changed)

    def _look_up(self, paths: Iterable[str]) -> list[FileToMeasure]:
        """Look up files in the cache; return those to read."""
        root = str(self._root)
        changed: list[FileToMeasure] = []
        for path in paths:
            try:
                state = FileState.of(f"{root}/{path}")
            except OSError as error:
                self.measured[path] = failure(unreachable(error))
                continue
            self.sizes[path] = state.size
            known = self._cache.get(path, state)
            if known is None:
                changed.append(FileToMeasure(path, state))
            else:
                self.measured[path] = known
        return changed


def _measure_all(writer: CacheWriter, results: Measurements, total: int) -> dict[str, Measurement]:
    """Collect measurements; finished batches are saved even if the run ends early."""
    measured: dict[str, Measurement] = {}
    saved = time.monotonic()
    try:
        # closing() ends the workers before the final save.
        with progress_bar("index", total, unit="file") as bar, closing(results):
            for path, measurement in results:
                measured[path] = measurement
                bar.update()
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    writer.save()
                    saved = time.monotonic()
    finally:
        writer.save()
    return measured


def _measured_clip(clip: Clip, sizes: Mapping[str, int], measured: Mapping[str, Measurement]) -> Clip:
    crops, media, sound = (
        measured[path] for path in (clip.face_path, clip.path, clip.audio_path if clip.audio_path in measured else "")
    )
    if not sound.has_audio:
        clip = replace(clip, audio_path="")
    return replace(
        clip,
        face_digest=crops.digest,
        face_bytes=sizes.get(clip.face_path, 0),
        audio_digest=sound.digest if clip.audio_path else "",
        audio_bytes=sizes.get(clip.audio_path, 0),
        digest=content_digest(media.digest, clip.start, clip.end, clip.half),
        file_digest=media.digest,
        bytes=sizes.get(clip.path, 0),
        duration=round(clip.end - clip.start, 3) if clip.end else media.duration or sound.duration,
        has_video=media.has_video,
        has_audio=media.has_audio or sound.has_audio,
    )


def _stream_findings(clips: Sequence[Clip], measured: Mapping[str, Measurement]) -> Iterator[Finding]:
    seen: set[str] = set()
    pictures = any(clip.has_video for clip in clips)  # a corpus of sounds may keep them in any container
    for clip in clips:
        if clip.end and clip.path in seen:  # all clips of a recording have the same problem
            continue
        seen.add(clip.path)
        if clip.path and (file := measured[clip.path]).readable < file.duration and not file.reason:
            message = (
                f"{clip.path!r} is cut off: {file.readable:.2f} of {file.duration:.2f} s can be read; copy the file "
                "again (media.least_readable sets from which share on it is used)"
            )
            yield Finding(FindingKind.TRUNCATED, clip.clip_id, message)
        is_film = pictures and clip.path and not is_sound_file(clip.path)
        if is_film and not clip.has_video and not measured[clip.path].reason:
            missing = "no global features" if clip.face_digest else "no global and no face features"
            message = (
                f"{clip.path!r} has no video stream: clip {clip.clip_id!r} gets {missing}; replace the file if it "
                "should have one"
            )
            yield Finding(FindingKind.NO_VIDEO_STREAM, clip.clip_id, message)
        if clip.face_path and (crops := measured[clip.face_path]).reason:
            message = (
                f"{clip.face_path!r} is unusable ({crops.message}): clip {clip.clip_id!r} gets no face features; "
                "replace the file"
            )
            yield Finding(FindingKind.UNREADABLE, clip.clip_id, message)


def _outdated_segments(listing: CorpusListing, measured: Mapping[str, Measurement]) -> Iterator[Finding]:
    for path, digest in listing.cut_digests.items():
        if path in measured and measured[path].digest not in {"", digest}:
            message = f"recording {path!r} has changed since it was cut into clips; run ecmf-pipe segment"
            yield Finding(FindingKind.OUTDATED_SEGMENTS, "", message)


def _sound_findings(clips: Sequence[Clip], measured: Mapping[str, Measurement]) -> Iterator[Finding]:
    """Yield findings about sound files beside clips; ``clips`` are those of the listing."""
    unused = []
    for clip in clips:
        if not clip.audio_path:
            continue
        if measured[clip.path].has_audio:
            unused.append((clip.audio_path, clip.path))
        elif not (sound := measured[clip.audio_path]).has_audio:
            problem = sound.message or "it has no audio stream"
            message = (
                f"{clip.audio_path!r} is unusable ({problem}): clip {clip.clip_id!r} gets no audio features; replace "
                "the file"
            )
            yield Finding(FindingKind.UNREADABLE, clip.clip_id, message)
    # Corpora such as MER have the sound of all clips in a folder of its own too.
    if beside := [sound for sound, video in unused if Path(sound).parent == Path(video).parent]:
        message = (
            f"{format_count(len(beside), 'sound file')} beside a clip with sound not read: {quote_names(beside)}; "
            "rename those that are clips of their own, remove the others"
        )
        yield Finding(FindingKind.SOUND_NOT_USED, "", message, count=len(beside))


def _content_duplicates(clips: Sequence[Clip], measured: dict[str, Measurement]) -> Iterator[Finding]:
    first: dict[str, Clip] = {}
    for clip in clips:
        if not clip.digest or measured[clip.path].reason:
            continue
        other = first.setdefault(clip.digest, clip)
        if other is not clip:
            message = (
                f"{clip.path!r} (clip {clip.clip_id!r}, {clip.split}) has the same bytes as {other.path!r} (clip "
                f"{other.clip_id!r}, {other.split}): {_duplicate_effect(clip, other)}; remove one of the two"
            )
            yield Finding(FindingKind.DUPLICATE_CONTENT, clip.clip_id, message)


def _duplicate_effect(clip: Clip, other: Clip) -> str:
    """Return what goes wrong if two clips have the same bytes."""
    if Split.TRAIN in (clip.split, other.split):
        return "scores are too high if a clip is in both training and evaluation"
    return "the clip is predicted and counted twice"
