"""Settings of the corpus; light, since params.py imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from ecmf_pipeline.core.config import Config

MER_LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
"""The six classes of MER2023-MER2026 Track 1, in the challenge's order."""

MELD_TO_MER = {
    "neutral": "neutral",
    "anger": "angry",
    "joy": "happy",
    "sadness": "sad",
    "fear": "worried",
    "surprise": "surprise",
    "disgust": "",
}
"""MELD's seven emotions as MER's six; disgust has none."""


class CorpusConfig(Config):
    """Which corpus, and how to read it.

    Attributes:
        kind: The layout: ``mer`` (MER2023-2026, raw), ``folder`` (any folder of clips, with ``labels.csv`` and
            ``transcripts.csv`` if there are any), ``meld`` (its csv files, with or without clips) or ``sample`` (the
            generated corpus, in MER's layout).
        root: The corpus folder.
        labels: The classes, in the order of the model's outputs. None: MER's six, or for a folder those that its
            ``labels.csv`` names, sorted.
        transcripts: Which column of MER's subtitles holds the transcript; the other becomes its translation.
        mapping: MELD's emotions (in any case) to labels, "" for none. None: to MER's six, disgust to none.
        groups: What groups MELD's clips, so that no fold tears it apart: the ``dialogue`` or the ``speaker``.
    """

    kind: Literal["sample", "mer", "folder", "meld"] = "sample"
    root: Path = Path("data/sample")
    labels: tuple[str, ...] | None = None
    transcripts: Literal["english", "chinese"] = "english"
    mapping: dict[str, str] | None = None
    groups: Literal["dialogue", "speaker"] = "dialogue"

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is None:
            return None
        if len({label.casefold() for label in labels}) < max(2, len(labels)):
            raise ValueError("at least two labels that differ in more than case are needed")
        if any(not label or label != " ".join(label.split()) for label in labels):
            raise ValueError("a label is empty or has space around it")
        return labels
