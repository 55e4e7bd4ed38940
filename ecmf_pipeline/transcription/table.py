"""The table of transcripts: one row for each transcribed or corrected clip, with a verdict on its use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from pydantic import FiniteFloat, TypeAdapter

from ecmf_pipeline.core.clips import Clip, ClipId, Clips, WordsFrom
from ecmf_pipeline.core.tables import one_of, open_table, parse_number, write_sealed_csv
from ecmf_pipeline.transcription.config import TranscribeConfig

_COLUMNS = [
    "clip_id", "transcript", "words_from", "verdict", "language", "language_probability", "confidence", "no_speech",
    "loudness",
]  # fmt: skip


class Word(NamedTuple):
    """A recognised word.

    Attributes:
        text: The word with its punctuation.
        start: Start in the clip, in seconds.
        end: End in the clip, in seconds.
        probability: Mean probability of its tokens.
    """

    text: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Utterance:
    """A recognised segment of speech.

    Attributes:
        text: The text on one line.
        words: Its words, each as the values of a `Word`: plain tuples are parsed three times as fast.
        confidence: Mean log-probability of the tokens, including the end token.
        no_speech: Probability of the model that there is no speech.
        repetition: Compression ratio of the text; high if the model repeats itself.
        loudness: Level from the first to the last word, in dBFS (RMS).
    """

    text: str
    words: tuple[tuple[str, FiniteFloat, FiniteFloat, FiniteFloat], ...]
    confidence: FiniteFloat
    no_speech: FiniteFloat
    repetition: FiniteFloat
    loudness: FiniteFloat


@dataclass(frozen=True, slots=True)
class TranscriptRecord:
    """The result of speech recognition on one clip, as stored in the cache.

    Attributes:
        key: Digest of the sound.
        language: Language code; empty if nobody speaks.
        language_probability: Probability of the language; 1 if it was set.
        utterances: The segments of speech in time order; none if nobody speaks.
    """

    key: str
    language: str = ""
    language_probability: FiniteFloat = 0.0
    utterances: tuple[Utterance, ...] = ()

    def line(self) -> str:
        """Serialise the record as a line of the cache, with its newline."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> TranscriptRecord:
        """Parse a line of the cache.

        Raises:
            ValueError: If the line is damaged.
        """
        return _RECORD_ADAPTER.validate_json(line)


_RECORD_ADAPTER = TypeAdapter(TranscriptRecord)


class Verdict(StrEnum):
    """Whether a transcript is used."""

    USED = "used"
    SILENT = "no words"
    NO_SPEECH = "no speech"
    UNSURE = "low confidence"
    REPEATS = "repeats itself"
    QUIET = "too quiet"


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript of one clip.

    Attributes:
        text: The text; of the used utterances if some are.
        verdict: Whether the text is used.
        words_from: ``machine`` or ``corrected``.
        language: Language code; empty if unknown.
        language_probability: Probability of the language; None if nothing was recognised.
        confidence: Mean log-probability of the tokens, on average over words; None if nothing was recognised.
        no_speech: Probability of the model that there is no speech, on average over words; None likewise.
        loudness: Level of the loudest utterance, in dBFS; None likewise.
    """

    text: str
    verdict: Verdict
    words_from: WordsFrom = WordsFrom.MACHINE
    language: str = ""
    language_probability: float | None = None
    confidence: float | None = None
    no_speech: float | None = None
    loudness: float | None = None


def assess_transcript(record: TranscriptRecord, config: TranscribeConfig) -> Transcript:
    """Decide which utterances are used. If none is, the verdict is that of the longest one."""
    if not record.utterances:
        return Transcript("", Verdict.SILENT)
    verdicts = [_assess_utterance(utterance, config) for utterance in record.utterances]
    if len(verdicts) == 1:  # most clips; the general case takes three times as long
        (only,) = record.utterances
        measures = (record.language, record.language_probability, only.confidence, only.no_speech, only.loudness)
        return Transcript(only.text, verdicts[0], WordsFrom.MACHINE, *measures)
    used = [utterance for utterance, v in zip(record.utterances, verdicts, strict=True) if v is Verdict.USED]
    shown = used or record.utterances
    longest = max(range(len(verdicts)), key=lambda index: len(record.utterances[index].text))
    weights = [max(1, len(utterance.words)) for utterance in shown]

    def mean(values: Sequence[float]) -> float:
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)

    return Transcript(
        " ".join(utterance.text for utterance in shown),
        Verdict.USED if used else verdicts[longest],
        language=record.language,
        language_probability=record.language_probability,
        confidence=round(mean([utterance.confidence for utterance in shown]), 4),
        no_speech=round(mean([utterance.no_speech for utterance in shown]), 4),
        loudness=round(max(utterance.loudness for utterance in shown), 2),
    )


def _assess_utterance(utterance: Utterance, config: TranscribeConfig) -> Verdict:
    if utterance.no_speech > config.max_no_speech:
        return Verdict.NO_SPEECH
    if utterance.repetition > config.max_repetition:
        return Verdict.REPEATS
    if utterance.confidence < config.min_confidence:
        return Verdict.UNSURE
    return Verdict.QUIET if utterance.loudness < config.min_loudness else Verdict.USED


def corrected_transcript(text: str, recognised: Transcript | None = None) -> Transcript:
    """Return the transcript that a person has corrected; an empty text means that nobody speaks.

    Args:
        text: The text.
        recognised: The transcript of the model, whose language is kept.
    """
    language = recognised.language if recognised and text else ""
    return Transcript(text, Verdict.USED if text else Verdict.SILENT, WordsFrom.CORRECTED, language)


def write_transcripts(path: Path, transcripts: Mapping[ClipId, Transcript]) -> bool:
    """Write the table, sorted by clip id.

    Returns:
        Whether the content of the file changed.
    """
    return write_sealed_csv(path, _COLUMNS, (_row(clip_id, row) for clip_id, row in sorted(transcripts.items())))


def _row(clip_id: ClipId, transcript: Transcript) -> list[str]:
    numbers = (transcript.language_probability, transcript.confidence, transcript.no_speech, transcript.loudness)
    return [
        clip_id,
        transcript.text,
        transcript.words_from.value,
        transcript.verdict.value,
        transcript.language,
        *("" if number is None else f"{number:.4f}" for number in numbers),
    ]


def read_transcripts(path: Path) -> dict[ClipId, Transcript]:
    """Read the transcript of each clip id.

    Raises:
        MissingInput: If `transcribe` has not run yet.
        InputError: If the table is damaged.
    """
    table = open_table(path, command="ecmf-pipe transcribe")
    return dict(table.parse(_parse_row, _COLUMNS))


def _parse_row(row: Sequence[str]) -> tuple[ClipId, Transcript]:
    clip_id, text, words_from, verdict, language, *numbers = row
    origin = WordsFrom(one_of(words_from, (WordsFrom.MACHINE, WordsFrom.CORRECTED), "words_from"))
    probability, confidence, no_speech, loudness = (
        parse_number(number, low=float("-inf")) if number else None for number in numbers
    )
    return ClipId(clip_id), Transcript(
        text, Verdict(verdict), origin, language, probability, confidence, no_speech, loudness
    )


def with_transcripts(clips: Sequence[Clip], transcripts: Mapping[ClipId, Transcript]) -> Clips:
    """Add the used transcripts to the clips that lack words; corrections replace the words of all clips."""
    clips = Clips.of(clips)
    rows = [row for row, clip_id in enumerate(clips.ids) if clip_id in transcripts]
    changed = [_with_transcript(clip, transcripts[clip.clip_id]) for clip in clips.take(rows)]
    return clips.updated(rows, changed, ("transcript", "translation", "words_from", "language"))


def _with_transcript(clip: Clip, transcript: Transcript) -> Clip:
    language = transcript.language or clip.language
    if transcript.words_from is WordsFrom.CORRECTED:
        translation = clip.translation if transcript.text else ""
        return replace(
            clip,
            transcript=transcript.text,
            translation=translation,
            words_from=WordsFrom.CORRECTED,
            language=language,
        )
    if transcript.verdict is not Verdict.USED or not lacks_words(clip):
        return clip
    return replace(clip, transcript=transcript.text, words_from=WordsFrom.MACHINE, language=language)


def lacks_words(clip: Clip) -> bool:
    """Return whether the corpus has neither a transcript nor a translation of a clip."""
    return not clip.transcript.strip() and not clip.translation.strip()


def is_transcribed(clip: Clip) -> bool:
    """Return whether `transcribe` recognises the speech of a clip: it has sound but no words."""
    return lacks_words(clip) and clip.sound is not None and bool(clip.sound.digest)
