"""The transcript of a clip, and the times of its words, with which the page lights it as it is spoken."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, WordsFrom
from ecmf_pipeline.core.files import FileState
from ecmf_pipeline.review.rows import RowFile
from ecmf_pipeline.transcription.table import Transcript, Verdict, with_transcripts

if TYPE_CHECKING:
    from ecmf_pipeline.llm.answers import AnswerCache
    from ecmf_pipeline.transcription.table import TranscriptRecord


class SpokenWord(NamedTuple):
    """A word and when it is spoken, in seconds from the start of the clip."""

    text: str
    start: float
    end: float


def with_transcript(clip: Clip, transcripts: RowFile | None) -> Clip:
    """Return the clip with its recognised or corrected transcript, if it has one that is used.

    Args:
        clip: The clip as in the manifest.
        transcripts: The table that `transcribe` wrote; None if it has not run.
    """
    row = transcripts.find(clip.clip_id) if transcripts else None
    if row is None:
        return clip
    transcript = Transcript(
        row["transcript"], Verdict(row["verdict"]), WordsFrom(row["words_from"]), language=row["language"]
    )
    return with_transcripts([clip], {clip.clip_id: transcript})[0]


def find_spoken_words(clip: Clip) -> list[SpokenWord]:
    """Return the recognised words of a clip with their times; empty if they are unknown. For a worker process.

    Args:
        clip: The clip with its transcript; see `with_transcript`.
    """
    from ecmf_pipeline.core.files import fingerprint
    from ecmf_pipeline.settings.params import load_params

    if clip.words_from is not WordsFrom.MACHINE or clip.sound is None:
        return []
    settings = fingerprint(load_params().transcribe.settings())
    folder = paths.TRANSCRIPT_CACHE / settings
    if not folder.is_dir():
        return []
    record = _cache(settings, FileState.of(folder)).get(clip.sound.digest)
    return [
        SpokenWord(text, start, end)
        for utterance in (record.utterances if record else ())
        if utterance.text in clip.transcript  # other utterances are not used
        for text, start, end, _ in utterance.words
    ]


@lru_cache(maxsize=1)
def _cache(settings: str, state: FileState) -> AnswerCache[TranscriptRecord]:  # noqa: ARG001 - a new state reads again
    from ecmf_pipeline.llm.answers import AnswerCache
    from ecmf_pipeline.transcription.table import TranscriptRecord

    return AnswerCache(paths.TRANSCRIPT_CACHE, settings, TranscriptRecord.parse)
