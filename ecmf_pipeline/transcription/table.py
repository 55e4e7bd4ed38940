"""The table of transcripts: one row a clip that was listened to, used or not, with the reason."""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import read_text, write_atomic
from ecmf_pipeline.transcription.config import TranscribeConfig

_COLUMNS = ["clip_id", "transcript", "language", "confidence", "verdict"]


@dataclass(frozen=True, slots=True)
class Heard:
    """What a model has heard in one file.

    Attributes:
        key: SHA-256 of the file.
        text: The words on one line; empty where it has heard none.
        confidence: Mean log-probability of its tokens, the sign that ends them included.
        language: Code of the language.
    """

    key: str
    text: str
    confidence: FiniteFloat
    language: str

    def line(self) -> str:
        """The line of the cache, with its end."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> Heard:
        """Read a line.

        Raises:
            ValueError: When it is damaged.
        """
        return _HEARD.validate_json(line)


_HEARD = TypeAdapter(Heard)


class Verdict(StrEnum):
    """Whether a transcript is used."""

    USED = "used"
    SILENT = "no words"
    UNSURE = "low confidence"
    REPEATS = "repeats itself"


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard in one clip.

    Attributes:
        text: The words.
        language: Code of the language.
        confidence: Mean log-probability of the tokens.
        verdict: Whether they are used.
    """

    text: str
    language: str
    confidence: float
    verdict: Verdict


def judge(heard: Heard, config: TranscribeConfig) -> Transcript:
    """Decide whether what was heard is used."""
    data = heard.text.encode()
    if not heard.text:
        verdict = Verdict.SILENT
    elif len(data) > config.max_repetition * len(zlib.compress(data, 9)):
        verdict = Verdict.REPEATS
    elif heard.confidence < config.min_confidence:
        verdict = Verdict.UNSURE
    else:
        verdict = Verdict.USED
    return Transcript(heard.text, heard.language, heard.confidence, verdict)


def write_transcripts(path: Path, transcripts: Mapping[str, Transcript]) -> bool:
    """Write the table, sorted by clip id.

    Returns:
        Whether the file's bytes changed.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for clip_id, found in sorted(transcripts.items()):
        writer.writerow([clip_id, found.text, found.language, f"{found.confidence:.4f}", found.verdict.value])
    return write_atomic(path, table.getvalue(), only_if_changed=True)


def read_transcripts(path: Path) -> dict[str, Transcript]:
    """Read the table by clip id.

    Raises:
        MissingInput: When `transcribe` has not run yet.
        InputError: When it is damaged.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing", "run `ecmf-pipe transcribe` (or `dvc repro`) first")
    header, *rows = list(csv.reader(io.StringIO(read_text(path)))) or [[]]
    damaged = InputError(f"{path} is damaged", "run `ecmf-pipe transcribe` again")
    if header != _COLUMNS:
        raise damaged
    try:
        return {
            clip_id: Transcript(text, language, float(confidence), Verdict(verdict))
            for clip_id, text, language, confidence, verdict in rows
        }
    except ValueError as error:
        raise damaged from error


def with_transcripts(clips: Sequence[Clip], transcripts: Mapping[str, Transcript]) -> list[Clip]:
    """The clips, those without words with what was heard in them, where that is used."""
    return [
        replace(clip, transcript=transcripts[clip.clip_id].text)
        if lacks_words(clip) and clip.clip_id in transcripts and transcripts[clip.clip_id].verdict is Verdict.USED
        else clip
        for clip in clips
    ]


def lacks_words(clip: Clip) -> bool:
    """Whether the corpus says nothing of what is spoken in a clip."""
    return not clip.transcript.strip() and not clip.translation.strip()
