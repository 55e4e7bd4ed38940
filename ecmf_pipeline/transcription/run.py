"""Listen to the clips without words that no cache knows."""

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
from ecmf_pipeline.core.errors import ChangedSinceIndex, TryAgain
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.llm.answers import AnswerCache, AnswerWriter
from ecmf_pipeline.media.containers import has_changed
from ecmf_pipeline.media.sampling import read_audio
from ecmf_pipeline.runner import Outcome, Run, RunConfig, RunReport, Step, Target
from ecmf_pipeline.runner.machine import as_out_of_memory, threads_per_worker
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.transcription.config import TranscribeConfig
from ecmf_pipeline.transcription.table import Heard, Transcript, judge, lacks_words

if TYPE_CHECKING:
    from ecmf_pipeline.transcription.whisper import WhisperTranscriber

BRANCH = "words"
PART_SIZE = 256
"""Transcripts that stand in one file."""


@dataclass(frozen=True, slots=True)
class Transcribed:
    """What a run did.

    Attributes:
        transcripts: Of every clip without words that was listened to, by clip id.
        heard: How many files were listened to just now.
        reused: How many clips had been before.
        quarantined: How many clips are set aside.
    """

    transcripts: Mapping[str, Transcript]
    heard: int
    reused: int
    quarantined: int


def transcribe(
    clips: Sequence[Clip],
    *,
    config: TranscribeConfig,
    corpus_root: Path,
    cache_root: Path,
    waiting: Path,
    quarantine_path: Path,
    retry_quarantined: bool = False,
) -> Transcribed:
    """Transcribe clips with sound of which the corpus knows no words; each file is listened to once, ever.

    Args:
        clips: The manifest.
        config: The model, and which transcripts are used.
        corpus_root: What the clips' paths are relative to.
        cache_root: Where transcripts are kept.
        waiting: What is not sealed yet; outside of what DVC tracks.
        quarantine_path: Table of the clips that could not be listened to.
        retry_quarantined: Whether those are tried again although nothing changed.

    Raises:
        ModelError: When the model cannot be loaded.
        TooManyQuarantined: When too many clips are bad; what was heard is kept.
        TryAgain: When clips failed for reasons that may have passed by now.
        Interrupted: On Ctrl-C or SIGTERM; what was complete is kept.
    """
    keys: dict[str, str] = {
        clip.clip_id: clip.digest for clip in clips if lacks_words(clip) and clip.has_audio and clip.digest
    }
    settings = fingerprint(config.settings())
    quarantine = Quarantine(quarantine_path, stage="transcribe", fingerprint=settings)
    if retry_quarantined:
        quarantine.clear()
    cache = AnswerCache(cache_root, settings, Heard.parse)
    with AnswerWriter(cache, waiting, keys) as writer:
        missing = {clip_id: key for clip_id, key in keys.items() if key not in cache}
        quarantine.keep_only(missing)
        report = RunReport(reused={BRANCH: len(keys) - len(missing)})
        if items := _items(clips, missing, quarantine, corpus_root):
            run: Run[Recording] = Run(
                partial(_listening_step, config),
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
            quarantine.refuse_too_many(len(keys), config.max_quarantined)
    if report.transient:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.transient.most_common())
        raise TryAgain(f"transcribe: some clips failed for reasons that may pass ({reasons}): run it again")
    return Transcribed(
        {clip_id: judge(cache[key], config) for clip_id, key in keys.items() if key in cache},
        heard=len({key for key in missing.values() if key in cache}),
        reused=len(keys) - len(missing),
        quarantined=len(quarantine),
    )


def _items(
    clips: Sequence[Clip], missing: Mapping[str, str], quarantine: Quarantine, corpus_root: Path
) -> list[Recording]:
    """The files to listen to, equal ones once, those of like length together: a batch lasts as long as its longest."""
    same: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.clip_id in missing and not quarantine.holds(clip.clip_id, clip.digest):
            same[clip.digest].append(clip)
    files = sorted(same.values(), key=lambda some: (some[0].duration, some[0].clip_id))
    return [
        Recording(
            corpus_root / some[0].path,
            some[0].bytes,
            tuple(Target(clip.clip_id, BRANCH, clip.digest) for clip in some),
        )
        for some in files
    ]


@dataclass(frozen=True, slots=True)
class Recording:
    """A file to be listened to.

    Attributes:
        path: The file.
        bytes: Its size when it was indexed.
        targets: The clips that it is.
    """

    path: Path
    bytes: int
    targets: tuple[Target, ...]

    def alone(self) -> Sequence[Recording]:
        """Itself."""
        return [self]


def _listening_step(config: TranscribeConfig, worker: int) -> ListeningStep:
    """Load the model, in a worker; workers share out the GPUs there are."""
    import torch

    from ecmf_pipeline.transcription.whisper import WhisperTranscriber

    if config.device in {"auto", "cuda"} and torch.cuda.is_available():
        config = config.model_copy(update={"device": f"cuda:{worker % torch.cuda.device_count()}"})
    return ListeningStep(WhisperTranscriber(config))


class ListeningStep(Step[Recording, NDArray[np.float32], Heard]):
    """Writes down what is said in files."""

    def __init__(self, model: WhisperTranscriber) -> None:
        self._model = model

    def open(self, item: Recording) -> NDArray[np.float32]:
        """The sound, mono 16 kHz, (n,).

        Raises:
            ClipError: When there is none, or it cannot be decoded.
        """
        if has_changed(item.path, item.bytes):
            raise ChangedSinceIndex("the file has changed since it was indexed: run `ecmf-pipe index`")
        with as_out_of_memory():
            return read_audio(item.path)

    def work(self, batch: Sequence[tuple[Recording, NDArray[np.float32]]]) -> list[Outcome[Heard]]:
        """Listen to several files."""
        outcomes: list[Outcome[Heard]] = []
        for (item, _), found in zip(batch, self._model.transcribe([sound for _, sound in batch]), strict=True):
            outcomes += [
                Outcome(target, Heard(target.digest, found.text, found.confidence, found.language))
                for target in item.targets
            ]
        return outcomes
