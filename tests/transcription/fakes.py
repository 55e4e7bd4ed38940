"""A speech recogniser that needs no weights, and utterances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.transcription.config import TranscribeConfig
from ecmf_pipeline.transcription.table import TranscriptRecord, Utterance

SENTENCE = "The children are playing in the garden behind the house."
"""The sentence of the fixture ``spoken``."""


def utterance(text: str, **changes: Any) -> Utterance:
    """Return a segment of clear speech."""
    values = {"words": (), "confidence": -0.2, "no_speech": 0.05, "repetition": 0.9, "loudness": -20.0} | changes
    return Utterance(text, **values)


@dataclass
class FakeRecogniser:
    """Returns the duration of the sound as its words; nothing for an empty one.

    Attributes:
        created: Number of instances.
        recognised: The duration of each sound, in seconds.
        interrupt_after: Number of sounds after which Ctrl-C is simulated.
    """

    config: TranscribeConfig
    threads: int = 1
    worker: int = 0
    created: ClassVar[int] = 0
    recognised: ClassVar[list[float]] = []
    interrupt_after: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        type(self).created += 1

    def recognise(self, key: str, samples: NDArray[np.float32]) -> TranscriptRecord:
        """Return the duration as text."""
        if len(self.recognised) == self.interrupt_after:
            raise KeyboardInterrupt
        seconds = round(len(samples) / 16000, 1)
        self.recognised.append(seconds)
        if not len(samples):
            return TranscriptRecord(key)
        return TranscriptRecord(key, "en", 0.9, (utterance(f"{seconds} seconds"),))
