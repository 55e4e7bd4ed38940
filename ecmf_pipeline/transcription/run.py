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

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.errors import ClipTimeout, TruncatedMedia, TryAgain
from ecmf_pipeline.core.files import FileState, fingerprint, indexed_content
from ecmf_pipeline.corpora.measuring import known_states
from ecmf_pipeline.llm.answers import AnswerCache, AnswerWriter
from ecmf_pipeline.media.audio import read_audio
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner import Outcome, Run, RunConfig, RunReport, Step, Target
from ecmf_pipeline.runner.machine import as_out_of_memory, threads_per_worker
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.transcription.config import TranscribeConfig
from ecmf_pipeline.transcription.table import Transcript, TranscriptRecord, assess_transcript, lacks_words

if TYPE_CHECKING:
    from ecmf_pipeline.transcription.whisper import WhisperTranscriber

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

    transcripts: Mapping[str, Transcript]
    transcribed: int
    reused: int
    quarantined: int


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
) -> TranscriptionResult:
    """Transcribe the clips that have sound but no transcript; each file is transcribed only once.

    Args:
        clips: The manifest.
        config: The model, and the limits for transcripts that are used.
        media: How the audio is read.
        corpus_root: The folder that the paths of the clips are relative to.
        cache_root: The folder of the transcript cache.
        spool: The folder of finished batches that are not in the cache yet; not tracked by DVC.
        quarantine_path: The table of quarantined clips.
        index_cache: The cache of `index`. Files in another state than it holds are hashed before they are read; None:
            all files are.
        retry_quarantined: Whether to retry quarantined clips although nothing changed.

    Raises:
        ModelError: If the model cannot be loaded.
        TooManyQuarantined: If too many clips are quarantined; finished transcripts are kept.
        TryAgain: If clips failed for transient reasons.
        Interrupted: On Ctrl-C or SIGTERM; finished batches are kept.
    """
    keys: dict[str, str] = {
        clip.clip_id: clip.digest for clip in clips if lacks_words(clip) and clip.has_audio and clip.digest
    }
    settings = fingerprint(config.settings())
    limits = {ClipTimeout.__name__: config.clip_timeout, TruncatedMedia.__name__: media.least_readable}
    quarantine = Quarantine(quarantine_path, stage="transcribe", fingerprint=settings, limits=limits)
    if retry_quarantined:
        quarantine.clear()
    cache = AnswerCache(cache_root, settings, TranscriptRecord.parse)
    with AnswerWriter(cache, spool, keys) as writer:
        missing = {clip_id: key for clip_id, key in keys.items() if key not in cache}
        quarantine.drop_outdated(missing)
        report = RunReport(reused={BRANCH: len(keys) - len(missing)})
        if items := _items(clips, missing, quarantine, corpus_root, index_cache):
            run: Run[Recording] = Run(
                partial(_make_step, config, media),
                {BRANCH: writer},
                {BRANCH: quarantine},
                RunConfig(
                    config.batch_size,
                    PART_SIZE,
                    config.max_quarantined,
                    config.workers,
                    config.clip_timeout,
                    threads=threads_per_worker(config.workers),
                ),
                report,
            )
            run(items, "transcribe")
        else:
            quarantine.write()
            quarantine.check_share(len(keys), config.max_quarantined)
    if report.transient:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.transient.most_common())
        raise TryAgain(f"transcribe: some clips failed for transient reasons ({reasons})")
    return TranscriptionResult(
        {clip_id: assess_transcript(cache[key], config) for clip_id, key in keys.items() if key in cache},
        transcribed=len({key for key in missing.values() if key in cache}),
        reused=len(keys) - len(missing),
        quarantined=len(quarantine),
    )


def _items(
    clips: Sequence[Clip],
    missing: Mapping[str, str],
    quarantine: Quarantine,
    corpus_root: Path,
    index_cache: Path | None,
) -> list[Recording]:
    """Return the files to transcribe, without duplicates.

    They are sorted by duration: the longest clip of a batch determines its time.
    """
    by_digest: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.clip_id in missing and not quarantine.holds(clip.clip_id, clip.digest):
            by_digest[clip.digest].append(clip)
    files = sorted(by_digest.values(), key=lambda copies: (copies[0].duration, copies[0].clip_id))
    names = [copies[0].path for copies in files]
    states = known_states(index_cache, corpus_root, names) if index_cache and names else {}
    return [
        Recording(
            corpus_root / copies[0].path,
            copies[0].bytes,
            tuple(Target(clip.clip_id, BRANCH, clip.digest) for clip in copies),
            states.get(copies[0].path),
        )
        for copies in files
    ]


@dataclass(frozen=True, slots=True)
class Recording:
    """A file to transcribe.

    Attributes:
        path: The file.
        bytes: Its size at the time of indexing.
        targets: The clips with this content.
        state: State of the file with this content; None if unknown.
    """

    path: Path
    bytes: int
    targets: tuple[Target, ...]
    state: FileState | None = None

    def alone(self) -> Sequence[Recording]:
        """Return the recording itself: it cannot be divided."""
        return [self]


def _make_step(config: TranscribeConfig, media: MediaConfig, worker: int) -> TranscriptionStep:
    """Load the model in a worker; worker i uses GPU i modulo the number of GPUs."""
    import torch

    from ecmf_pipeline.transcription.whisper import WhisperTranscriber

    if config.device in {"auto", "cuda"} and torch.cuda.is_available():
        config = config.model_copy(update={"device": f"cuda:{worker % torch.cuda.device_count()}"})
    return TranscriptionStep(WhisperTranscriber(config), media)


class TranscriptionStep(Step[Recording, NDArray[np.float32], TranscriptRecord]):
    """Decode and transcribe files."""

    def __init__(self, model: WhisperTranscriber, media: MediaConfig) -> None:
        self._model = model
        self._media = media

    def open(self, item: Recording) -> NDArray[np.float32]:
        """Decode the sound as mono samples at 16 kHz, (n,).

        Raises:
            ClipError: If the file has changed, has no sound or cannot be decoded.
        """
        with as_out_of_memory(), indexed_content(item.path, item.targets[0].digest, item.state, item.bytes):
            return read_audio(item.path, self._media)

    def work(self, batch: Sequence[tuple[Recording, NDArray[np.float32]]]) -> list[Outcome[TranscriptRecord]]:
        """Transcribe a batch of files."""
        results = self._model.transcribe([sound for _, sound in batch])
        outcomes: list[Outcome[TranscriptRecord]] = []
        for (item, _), result in zip(batch, results, strict=True):
            outcomes += [
                Outcome(target, TranscriptRecord(target.digest, result.text, result.confidence, result.language))
                for target in item.targets
            ]
        return outcomes
