"""Find the cues or the speech in each new recording, in worker processes, and cut the recordings into clips."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat, TypeAdapter

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import (
    ClipTimeout,
    InputError,
    NoAudioStream,
    SilentAudio,
    TryAgain,
    UnreadableMedia,
)
from ecmf_pipeline.core.files import FileState, fingerprint, indexed_content, sha256_file, sha256_text
from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind
from ecmf_pipeline.corpora.measuring import known_states
from ecmf_pipeline.corpora.segments import CutRecording, Segment
from ecmf_pipeline.corpora.sidecars import language_code
from ecmf_pipeline.llm.answers import AnswerCache, AnswerWriter
from ecmf_pipeline.media.audio import read_sound
from ecmf_pipeline.media.config import SAMPLE_RATE, MediaConfig
from ecmf_pipeline.media.subtitles import read_subtitle_file, read_subtitle_stream
from ecmf_pipeline.runner import Outcome, Run, RunConfig, RunReport, Step, Target
from ecmf_pipeline.runner.machine import as_out_of_memory
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.segmentation.config import SegmentConfig
from ecmf_pipeline.segmentation.cutting import Utterance, cut

BRANCH = "segments"
PART_SIZE = 64
"""Recordings per file of the cache."""

_SHORTEST_PAUSE_MS = 100
"""Silence between two spans of speech in the cache, in milliseconds; `cut` joins spans with a short pause."""


@dataclass(frozen=True, slots=True)
class UtteranceRecord:
    """The cues or the speech of one recording, as stored in the cache.

    Attributes:
        key: SHA-256 of the recording and of its subtitle file.
        utterances: Start and end in seconds, and the words.
        language: Language code of the words; empty if unknown.
    """

    key: str
    utterances: tuple[tuple[FiniteFloat, FiniteFloat, str], ...]
    language: str = ""

    def line(self) -> str:
        """Serialise the record as a line of the cache, with its newline."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> UtteranceRecord:
        """Parse a line of the cache.

        Raises:
            ValueError: If the line is damaged.
        """
        return _RECORD_ADAPTER.validate_json(line)


_RECORD_ADAPTER = TypeAdapter(UtteranceRecord)


@dataclass(frozen=True, slots=True)
class SegmentationResult:
    """The result of `segment`.

    Attributes:
        recordings: The recordings that were cut, by path.
        findings: Their problems.
        read: Number of recordings that were read in this run.
        quarantined: Number of quarantined recordings.
    """

    recordings: Mapping[str, CutRecording]
    findings: Sequence[Finding]
    read: int
    quarantined: int


def segment(
    listing: CorpusListing,
    clips: Sequence[Clip],
    *,
    config: SegmentConfig,
    cache_root: Path,
    spool: Path,
    quarantine_path: Path,
    index_cache: Path,
    retry_quarantined: bool = False,
) -> SegmentationResult:
    """Cut the recordings that are longer than ``config.max_seconds``; each is read only once.

    Args:
        listing: The files of the corpus, and their subtitle files.
        clips: The same files, indexed.
        config: How to cut.
        cache_root: Folder of the cache of cues and speech.
        spool: Folder of finished batches that are not in the cache yet; not tracked by DVC.
        quarantine_path: Table of quarantined recordings.
        index_cache: The cache of `index`; see `known_states`.
        retry_quarantined: Whether to retry quarantined recordings although nothing changed.

    Raises:
        TooManyQuarantined: If too many recordings are quarantined; finished ones are kept.
        TryAgain: If recordings failed for transient reasons.
        Interrupted: On Ctrl-C or SIGTERM; finished recordings are kept.
    """
    recordings = [clip for clip in clips if clip.digest and clip.duration > config.max_seconds]
    items = {clip.clip_id: _item(clip, listing, config) for clip in recordings}
    keys: dict[str, str] = {clip_id: item.key for clip_id, item in items.items()}
    settings = fingerprint(config.settings())
    limits = {ClipTimeout.__name__: config.clip_timeout}
    quarantine = Quarantine(quarantine_path, stage="segment", fingerprint=settings, limits=limits)
    if retry_quarantined:
        quarantine.clear()
    cache = AnswerCache(cache_root, settings, UtteranceRecord.parse)
    with AnswerWriter(cache, spool, keys) as writer:
        missing = {clip_id: key for clip_id, key in keys.items() if key not in cache}
        quarantine.drop_outdated(missing)
        report = RunReport(reused={BRANCH: len(keys) - len(missing)})
        todo = [items[ClipId(name)] for name, key in missing.items() if not quarantine.holds(name, key)]
        states = known_states(index_cache, listing.root, [item.path for item in todo]) if todo else {}
        run: Run[Recording] = Run(
            partial(_make_step, config, listing.root, states),
            {BRANCH: writer},
            {BRANCH: quarantine},
            RunConfig(1, PART_SIZE, config.max_quarantined, config.workers, config.clip_timeout),
            report,
        )
        if todo:
            run(todo, "segment")
        else:
            quarantine.write()
            quarantine.check_share(len(keys), config.max_quarantined)
    if report.transient:
        raise TryAgain(f"segment: {format_count(report.transient.total(), 'recording')} could not be read for now")
    cut_recordings: dict[str, CutRecording] = {}
    findings: list[Finding] = []
    for clip in recordings:
        if (record := cache.get(keys[clip.clip_id])) is not None:
            cut_recordings[clip.path], problems = _cut(clip, record, config)
            findings += problems
    findings += [
        Finding(
            FindingKind.UNREADABLE, entry.clip_id, f"{items[ClipId(entry.clip_id)].path!r} is not cut: {entry.message}"
        )
        for entry in quarantine
        if entry.clip_id in items
    ]
    return SegmentationResult(cut_recordings, findings, len(todo), len(quarantine))


def _cut(clip: Clip, record: UtteranceRecord, config: SegmentConfig) -> tuple[CutRecording, list[Finding]]:
    cutting = cut([Utterance(*one) for one in record.utterances], clip.duration, config)
    segments = tuple(Segment(one.start, one.end, one.text, record.language) for one in cutting.clips)
    findings = []
    if not segments:
        kind = FindingKind.NO_SPEECH if config.by == "speech" else FindingKind.NO_SUBTITLES
        found = "no speech was found in it" if config.by == "speech" else "it has no subtitles"
        hint = (
            "lower segment.threshold" if config.by == "speech" else "add a subtitle file, or set segment.by to speech"
        )
        message = f"recording {clip.path!r} ({clip.duration:.0f} s) gives no clips: {found}; {hint}"
        findings.append(Finding(kind, clip.clip_id, message))
    if cutting.problems:
        message = f"recording {clip.path!r}: {cutting.describe()}; check the times of its subtitles"
        findings.append(Finding(FindingKind.CUES_CHANGED, clip.clip_id, message, count=cutting.problems.total()))
    return CutRecording(clip.file_digest, segments), findings


def _item(clip: Clip, listing: CorpusListing, config: SegmentConfig) -> Recording:
    if config.by == "speech":
        sound = clip.sound
        path, digest = (sound.path, sound.file_digest) if sound else ("", clip.file_digest)
        return Recording(clip.clip_id, path, digest, digest)
    subtitles = listing.subtitles.get(clip.clip_id)
    if subtitles is None:
        return Recording(clip.clip_id, clip.path, clip.file_digest, clip.file_digest)
    try:
        digest = sha256_file(listing.root / subtitles.path)
    except OSError:
        digest = ""  # the worker reports it
    key = sha256_text(f"{clip.file_digest} {digest}")
    return Recording(clip.clip_id, subtitles.path, digest, key, subtitles.language)


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording whose cues or speech are not known yet.

    Attributes:
        clip_id: Its clip id.
        path: The file to read: the recording, its sound file or its subtitle file; empty if it has no sound.
        digest: SHA-256 of this file.
        key: Key in the cache.
        language: Language code in the name of the subtitle file; empty if unknown.
    """

    clip_id: ClipId
    path: str
    digest: str
    key: str
    language: str = ""

    @property
    def targets(self) -> Sequence[Target]:
        """The utterances of the recording."""
        return (Target(self.clip_id, BRANCH, self.key),)

    def alone(self) -> Sequence[Recording]:
        """Return the recording itself: it cannot be divided."""
        return (self,)


def _make_step(config: SegmentConfig, root: Path, states: Mapping[str, FileState], worker: int) -> SegmentationStep:  # noqa: ARG001
    return SegmentationStep(config, root, states)


class SegmentationStep(Step[Recording, UtteranceRecord, UtteranceRecord]):
    """Read the cues of recordings, or find their speech."""

    def __init__(self, config: SegmentConfig, root: Path, states: Mapping[str, FileState]) -> None:
        self._config, self._root, self._states = config, root, states
        if config.by == "speech":
            from faster_whisper import vad  # before the first recording, whose time is limited

            vad.get_vad_model()

    def open(self, item: Recording) -> UtteranceRecord:
        """Read one recording.

        Raises:
            ClipError: If it has changed or cannot be read.
        """
        if not item.path:
            return UtteranceRecord(item.key, ())
        path = self._root / item.path
        read: Callable[[Path], UtteranceRecord] = partial(self._speech if self._config.by == "speech" else _cues, item)
        with as_out_of_memory(), indexed_content(path, item.digest, self._states.get(item.path)):
            return read(path)

    def work(self, batch: Sequence[tuple[Recording, UtteranceRecord]]) -> list[Outcome[UtteranceRecord]]:
        """Return the records; `open` has done all work."""
        return [Outcome(item.targets[0], record) for item, record in batch]

    def _speech(self, item: Recording, path: Path) -> UtteranceRecord:
        try:
            sound = read_sound(path, MediaConfig(least_readable=0))
        except (NoAudioStream, SilentAudio):  # then nobody speaks
            return UtteranceRecord(item.key, ())
        spans = find_speech(sound.samples, self._config.threshold)
        times = (tuple(round(sound.time_of(edge), 3) for edge in span) for span in spans)
        return UtteranceRecord(item.key, tuple((start, end, "") for start, end in times))


def _cues(item: Recording, path: Path) -> UtteranceRecord:
    is_beside = item.key != item.digest
    try:
        subtitles = read_subtitle_file(path) if is_beside else read_subtitle_stream(path)
    except InputError as error:
        raise UnreadableMedia(error.message) from error
    cues = tuple((round(cue.start, 3), round(cue.end, 3), " ".join(cue.text.split())) for cue in subtitles.cues)
    return UtteranceRecord(item.key, cues, item.language or language_code(subtitles.language))


def find_speech(samples: NDArray[np.float32], threshold: float) -> list[tuple[float, float]]:
    """Return start and end in seconds of each span of speech in mono samples at 16 kHz, (n,)."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(
        threshold=threshold, min_speech_duration_ms=100, min_silence_duration_ms=_SHORTEST_PAUSE_MS, speech_pad_ms=0
    )
    found = get_speech_timestamps(samples, options, sampling_rate=SAMPLE_RATE)
    return [(span["start"] / SAMPLE_RATE, span["end"] / SAMPLE_RATE) for span in found]
