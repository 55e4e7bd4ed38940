"""Settings of the corpus. This module imports no heavy library, because params.py imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.languages import is_code, normalise_code

MER_LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
"""The six classes of MER2023-MER2026 Track 1, in the challenge's order."""

CorpusKind = Literal[
    "sample",
    "mer",
    "folder",
    "meld",
    "ravdess",
    "cremad",
    "iemocap",
    "mosei",
    "mosi",
    "chsims",
    "emodb",
    "tess",
    "savee",
    "table",
]
"""The layouts of corpora."""

MELD_TO_MER = {
    "neutral": "neutral",
    "anger": "angry",
    "joy": "happy",
    "sadness": "sad",
    "fear": "worried",
    "surprise": "surprise",
    "disgust": "",
}
"""Map MELD's seven emotions to MER's six labels; disgust has no label."""


TableColumn = Literal["path", "name", "label", "group", "split", "start", "end", "text", "gold"]
"""The contents of the columns of a corpus of kind ``table``."""


class CorpusConfig(Config):
    """The corpus and its layout.

    Attributes:
        kind: The layout: ``mer`` (MER2023-2026, raw), ``folder`` (any folder of video or sound files, with optional
            ``labels.csv``, ``transcripts.csv`` and subtitle files), ``meld`` (its csv files, with or without clips),
            ``ravdess``, ``cremad``, ``iemocap``, ``mosei``, ``mosi``, ``chsims``, ``emodb``, ``tess``, ``savee`` (as
            published), ``table`` (a table with one row for each clip) or ``sample`` (the generated corpus, in MER's
            layout).
        root: The corpus folder.
        labels: The classes, in the order of the model's outputs. None: MER's six for ``mer`` and ``meld``, the sorted
            labels of the table for ``folder`` and ``table``, else the labels of the emotions that occur.
        transcripts: The column of MER's subtitles that holds the transcript; the other column is the translation.
        mapping: Map from the emotions of the corpus (case-insensitive) to labels, "" for no label; an emotion that is
            not listed has none. None: for ``meld`` MER's six, disgust without label; for ``iemocap`` four classes
            (excited counts as happy); else each emotion is a label.
        groups: The grouping of MELD's clips, ``dialogue`` or ``speaker``. Folds keep the clips of a group together.
        target: The labels of ``mosei``: ``sentiment`` or ``emotion``.
        thresholds: The scores that divide sentiment into classes, from negative to positive (``mosei``, ``mosi``,
            ``chsims``); a score that equals a threshold is in the class below it. With other numbers than one, two or
            four, list the names of the classes in ``labels``.
        marked_half: The half of the films of ``iemocap`` that shows the actor who wears the markers, ``left`` or
            ``right``; a clip gets the half of its speaker. None: whole pictures.
        table: The table of a corpus of kind ``table``, relative to ``root``.
        columns: The names of its columns, by content: path, name, label, group, split, start, end, text, gold. A
            column that is not listed has the name of its content.
        wrong_length: Whether `index` keeps or quarantines a file whose length differs from that in the tables by more
            than one second and a quarter (MELD's StartTime and EndTime; ``start``, ``end`` and ``duration`` of a
            folder's ``labels.csv``). It reports such files in both cases.
        language: The language of the transcripts (en, zh, ...), or ``auto``: `index` detects that of each transcript.
        foreign_text: What the text branch does with a clip whose text is in a language that the text encoder does not
            know: ``mask`` it, as if it had no text, or ``keep`` it.
    """

    kind: CorpusKind = "sample"
    root: Path = Path("data/sample")
    labels: tuple[str, ...] | None = None
    transcripts: Literal["english", "chinese"] = "english"
    mapping: dict[str, str] | None = None
    groups: Literal["dialogue", "speaker"] = "dialogue"
    target: Literal["sentiment", "emotion"] = "sentiment"
    thresholds: tuple[float, ...] = (-0.1, 0.1)
    marked_half: Literal["left", "right"] | None = "left"
    table: str = "labels.csv"
    columns: dict[TableColumn, str] = Field(default_factory=dict)
    wrong_length: Literal["keep", "quarantine"] = "keep"
    language: str = "auto"
    foreign_text: Literal["mask", "keep"] = "mask"

    @field_validator("language")
    @classmethod
    def _check_language(cls, language: str) -> str:
        if language != "auto" and not is_code(language):
            raise ValueError("give the code of a language, such as en or zh, or auto")
        return language if language == "auto" else normalise_code(language)

    @field_validator("thresholds")
    @classmethod
    def _ascending(cls, thresholds: tuple[float, ...]) -> tuple[float, ...]:
        if not thresholds or list(thresholds) != sorted(set(thresholds)):
            raise ValueError("give one or more thresholds in ascending order")
        return thresholds

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is None:
            return None
        if len({label.casefold() for label in labels}) < max(2, len(labels)):
            raise ValueError("at least two labels are needed that differ in more than case")
        if any(not label or label != " ".join(label.split()) for label in labels):
            raise ValueError("a label is empty, or has leading, trailing or repeated whitespace")
        return labels
