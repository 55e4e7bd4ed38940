"""The table of transcripts: one row per transcribed clip, with a verdict on its use."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.tables import open_table, parse_number, write_sealed_csv
from ecmf_pipeline.transcription.config import TranscribeConfig

_COLUMNS = ["clip_id", "transcript", "language", "confidence", "verdict"]


@dataclass(frozen=True, slots=True)
class TranscriptRecord:
    """The transcript of one file, as stored in the cache.

    Attributes:
        key: SHA-256 of the file.
        text: The text on one line; empty if the model recognised no words.
        confidence: Mean log-probability of the tokens, including the end token.
        language: Language code.
    """

    key: str
    text: str
    confidence: FiniteFloat
    language: str

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
    UNSURE = "low confidence"
    REPEATS = "repeats itself"


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript of one clip.

    Attributes:
        text: The text.
        language: Language code.
        confidence: Mean log-probability of the tokens.
        verdict: Whether the text is used.
    """

    text: str
    language: str
    confidence: float
    verdict: Verdict


def assess_transcript(record: TranscriptRecord, config: TranscribeConfig) -> Transcript:
    """Decide whether a transcript is used."""
    data = record.text.encode()
    if not record.text:
        verdict = Verdict.SILENT
    elif len(data) > config.max_repetition * len(zlib.compress(data, 9)):
        verdict = Verdict.REPEATS
    elif record.confidence < config.min_confidence:
        verdict = Verdict.UNSURE
    else:
        verdict = Verdict.USED
    return Transcript(record.text, record.language, record.confidence, verdict)


def write_transcripts(path: Path, transcripts: Mapping[str, Transcript]) -> bool:
    """Write the table, sorted by clip id.

    Returns:
        Whether the content of the file changed.
    """
    rows = (
        [clip_id, transcript.text, transcript.language, f"{transcript.confidence:.4f}", transcript.verdict.value]
        for clip_id, transcript in sorted(transcripts.items())
    )
    return write_sealed_csv(path, _COLUMNS, rows)


def read_transcripts(path: Path) -> dict[str, Transcript]:
    """Read the transcript of each clip id.

    Raises:
        MissingInput: If `transcribe` has not run yet.
        InputError: If the table is damaged.
    """
    table = open_table(path, command="ecmf-pipe transcribe")
    return dict(table.parse(_parse_row, _COLUMNS))


def _parse_row(row: Sequence[str]) -> tuple[str, Transcript]:
    clip_id, text, language, confidence, verdict = row
    return clip_id, Transcript(text, language, parse_number(confidence, low=float("-inf")), Verdict(verdict))


def with_transcripts(clips: Sequence[Clip], transcripts: Mapping[str, Transcript]) -> list[Clip]:
    """Add the transcripts with verdict ``used`` to the clips that lack one."""
    return [
        replace(clip, transcript=transcripts[clip.clip_id].text)
        if lacks_words(clip) and clip.clip_id in transcripts and transcripts[clip.clip_id].verdict is Verdict.USED
        else clip
        for clip in clips
    ]


def lacks_words(clip: Clip) -> bool:
    """Return whether the corpus has neither a transcript nor a translation of a clip."""
    return not clip.transcript.strip() and not clip.translation.strip()
