"""Transcribe the clips without transcript that are not in the cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.errors import ClipTimeout, NoAudioStream, SilentAudio, TruncatedMedia, TryAgain
from ecmf_pipeline.core.files import FileState, fingerprint, indexed_content
from ecmf_pipeline.core.shards import Shard, block_key
from ecmf_pipeline.core.weights import WHISPER, embedded_model
from ecmf_pipeline.corpora.measuring import known_states
from ecmf_pipeline.encoders.embedded.packages import fetch
from ecmf_pipeline.llm.answers import AnswerCache, AnswerFiles
from ecmf_pipeline.llm.shards import files_of_shard, open_answer_writer
from ecmf_pipeline.media.clip_reader import ClipReader, span_of
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.timeline import WHOLE, Span
from ecmf_pipeline.runner import Engine, Outcome, Run, RunConfig, RunReport, Step, Target
from ecmf_pipeline.runner.machine import as_out_of_memory, threads_per_worker
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.transcription.config import EMBEDDED, TranscribeConfig
from ecmf_pipeline.transcription.table import Transcript, TranscriptRecord, assess_transcript, is_transcribed

if TYPE_CHECKING:
    from ecmf_pipeline.transcription.recognition import Recogniser

BRANCH = "words"
PART_SIZE = 256
"""Transcripts per file of the cache."""


@dataclass(frozen=True, slots=True)
class TranscriptionResult:
    """The result of `transcribe`.

    Attributes:
        transcripts: The transcript of each transcribed clip id.
        transcribed: Number of files transcribed in this run.
        reused: Number of clips whose transcript was in the cache.
        quarantined: Number of quarantined clips.
    """

    transcripts: Mapping[ClipId, Transcript]
    transcribed: int
    reused: int
    quarantined: int


def fetch_model(config: TranscribeConfig, clips: Sequence[Clip]) -> bool:
    """Fetch the embedded model if it is in use and a clip has sound but no words; return whether it was fetched.

    Raises:
        ModelError: If it cannot be fetched.
    """
    needed = config.model == EMBEDDED and any(map(is_transcribed, clips))
    return needed and fetch(embedded_model(WHISPER), paths.MODELS)


def transcribe(
    clips: Sequence[Clip],
    *,
    config: TranscribeConfig,
    media: MediaConfig,
    corpus_root: Path,
    cache_root: Path,
    spool: Path,
    quarantine_path: Path,
    index_cache: Path | None = None,
    retry_quarantined: bool = False,
    engine: Engine | None = None,
    shard: Shard | None = None,
) -> TranscriptionResult:
    """Transcribe the clips that have sound but no words; each sound is transcribed only once.

    Args:
        clips: The clips.
        config: The model, and the limits for transcripts that are used.
        media: How the audio is read.
        corpus_root: The folder that the paths of the clips are relative to.
        cache_root: The folder of the transcript cache.
        spool: The folder of finished batches that are not in the cache yet; not tracked by DVC.
        quarantine_path: The table of quarantined clips.
        index_cache: The cache of `index`. Files in another state than it holds are hashed before they are read; None:
            all files are.
        retry_quarantined: Whether to retry quarantined clips although nothing changed.
        engine: Runs the workers; None: processes of this machine, as ``config`` selects.
        shard: The shard of the sounds to transcribe; None: all.

    Raises:
        ModelError: If the model cannot be fetched or loaded.
        StoreBusy: If another run of the stage or of the shard is active.
        TooManyQuarantined: If too many clips are quarantined; finished transcripts are kept.
        TryAgain: If clips failed for transient reasons.
        Interrupted: On Ctrl-C or SIGTERM; finished batches are kept.
    """
    files = AnswerFiles("transcribe", cache_root, spool, quarantine_path)
    if shard is not None:
        files = files_of_shard(files, shard)
    keys = _keys(clips, shard)
    settings = fingerprint(config.settings())
    limits = {ClipTimeout.__name__: config.clip_timeout, TruncatedMedia.__name__: media.least_readable}
    cache = AnswerCache(files.cache, settings, TranscriptRecord.parse, also=[other.cache for other in files.earlier])
    with open_answer_writer(cache, files, keys) as writer:
        quarantine, *earlier = (
            Quarantine(one.quarantine, stage="transcribe", fingerprint=settings, limits=limits)
            for one in (files, *files.earlier)
        )
        if retry_quarantined:
            quarantine.clear()
            earlier = []
        missing = {clip_id: key for clip_id, key in keys.items() if key not in cache}
        quarantine.drop_outdated(missing)
        report = RunReport(reused={BRANCH: len(keys) - len(missing)})
        if items := _items(clips, missing, (quarantine, *earlier), corpus_root, index_cache):
            fetch_model(config, clips)
            threads = threads_per_worker(config.workers)
            run: Run[Recording] = Run(
                partial(_make_step, config, media, threads),
                {BRANCH: writer},
                {BRANCH: quarantine},
                RunConfig(
                    config.batch_size,
                    PART_SIZE,
                    config.max_quarantined,
                    config.workers,
                    config.clip_timeout,
                    threads=threads,
                ),
                report,
                engine,
            )
            run(items, "transcribe")
        else:
            quarantine.write()
            quarantine.check_share(len(keys), config.max_quarantined)
    if report.transient:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.transient.most_common())
        raise TryAgain(f"transcribe: some clips failed for transient reasons ({reasons})")
    return TranscriptionResult(
        {ClipId(clip_id): assess_transcript(cache[key], config) for clip_id, key in keys.items() if key in cache},
        transcribed=len({key for key in missing.values() if key in cache}),
        reused=len(keys) - len(missing),
        quarantined=len(quarantine),
    )


@dataclass(frozen=True, slots=True)
class Recording:
    """The sound to transcribe: a file or a part of one.

    Attributes:
        path: The file.
        file_digest: SHA-256 of the file.
        bytes: Its size at the time of indexing.
        targets: The clips with this sound.
        span: The part of the file.
        extra_seconds: Time that it may take in addition to ``clip_timeout``: its duration.
        state: State of the file with this content; None if unknown.
    """

    path: Path
    file_digest: str
    bytes: int
    targets: tuple[Target, ...]
    span: Span = WHOLE
    extra_seconds: float = 0.0
    state: FileState | None = None

    def alone(self) -> Sequence[Recording]:
        """Return the recording itself: it cannot be divided."""
        return [self]

    def read(self, reader: ClipReader) -> NDArray[np.float32]:
        """Decode the sound as mono samples at 16 kHz, (n,); none if all of it is silent.

        Raises:
            ClipError: If the file has changed or cannot be decoded.
        """
        with as_out_of_memory(), indexed_content(self.path, self.file_digest, self.state, self.bytes):
            try:
                return reader.sound(self.path, self.span)
            except (SilentAudio, NoAudioStream):  # nobody speaks; `extract` reports the missing sound
                return np.empty(0, np.float32)


def _keys(clips: Sequence[Clip], shard: Shard | None) -> dict[str, str]:
    """Return the digest of the sound of each clip to transcribe: of all clips, or of one shard."""
    keys: dict[str, str] = {}
    for clip in clips:
        if is_transcribed(clip) and (sound := clip.sound):
            place = block_key(sound.file_digest, clip.start) if clip.end else sound.digest
            if shard is None or shard.has(place):
                keys[clip.clip_id] = sound.digest
    return keys


def _items(
    clips: Sequence[Clip],
    missing: Mapping[str, str],
    quarantines: Sequence[Quarantine],
    corpus_root: Path,
    index_cache: Path | None,
) -> list[Recording]:
    """Return the sounds to transcribe, without duplicates, from the shortest to the longest.

    The parts of a recording follow each other: the reader keeps the sound of one recording.
    """
    by_digest: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        key = missing.get(clip.clip_id)
        if key is not None and not any(table.holds(clip.clip_id, key) for table in quarantines):
            by_digest[key].append(clip)
    copies = sorted(by_digest.values(), key=lambda same: _order(same[0]))
    found = [(sound, same) for same in copies if (sound := same[0].sound)]
    names = [sound.path for sound, _ in found]
    states = known_states(index_cache, corpus_root, names) if index_cache and names else {}
    return [
        Recording(
            corpus_root / sound.path,
            sound.file_digest or sound.digest,
            sound.bytes,
            tuple(Target(clip.clip_id, BRANCH, sound.digest) for clip in same),
            span_of(same[0]),
            same[0].duration,
            states.get(sound.path),
        )
        for sound, same in found
    ]


def _order(clip: Clip) -> tuple[bool, str | float, float, str]:
    return clip.end > 0, clip.path if clip.end else clip.duration, clip.start, clip.clip_id


def _make_step(config: TranscribeConfig, media: MediaConfig, threads: int, worker: int) -> TranscriptionStep:
    """Load the model in a worker."""
    from ecmf_pipeline.transcription.recognition import Recogniser

    return TranscriptionStep(Recogniser(config, threads, worker), media)


class TranscriptionStep(Step[Recording, NDArray[np.float32], TranscriptRecord]):
    """Decode and transcribe sounds."""

    def __init__(self, model: Recogniser, media: MediaConfig) -> None:
        self._model = model
        self._reader = ClipReader(media)

    def open(self, item: Recording) -> NDArray[np.float32]:
        """Decode the sound; see `Recording.read`."""
        return item.read(self._reader)

    def work(self, batch: Sequence[tuple[Recording, NDArray[np.float32]]]) -> list[Outcome[TranscriptRecord]]:
        """Transcribe a batch of sounds, one after the other."""
        outcomes: list[Outcome[TranscriptRecord]] = []
        for item, samples in batch:
            record = self._model.recognise(item.targets[0].digest, samples)
            outcomes += [Outcome(target, record) for target in item.targets]
        return outcomes
