"""A speech recogniser that needs no weights."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ecmf_pipeline.transcription import recognition
from ecmf_pipeline.transcription.config import TranscribeConfig
from ecmf_pipeline.transcription.table import TranscriptRecord, Utterance, Word


class FakeRecogniser:
    """Returns a text with the length of the sound; nothing for an empty one.

    Attributes:
        created: One entry for each instance.
        recognised: The number of samples of each call.
    """

    created: list[TranscribeConfig]
    recognised: list[int]

    def __init__(self, config: TranscribeConfig, threads: int = 1, worker: int = 0) -> None:
        self.created.append(config)

    def recognise(self, key: str, samples: NDArray[np.float32]) -> TranscriptRecord:
        self.recognised.append(len(samples))
        if not len(samples):
            return TranscriptRecord(key)
        seconds = len(samples) / 16000
        text = f"{seconds:.1f} seconds"
        return TranscriptRecord(key, "en", 0.9, (utterance(text, words=(Word(text, 0.0, seconds, 0.9),)),))


def utterance(text: str, **changes: object) -> Utterance:
    """Return a segment of clear speech."""
    values = {"words": (), "confidence": -0.2, "no_speech": 0.05, "repetition": 0.9, "loudness": -20.0} | changes
    return Utterance(text, **values)  # type: ignore[arg-type]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeRecogniser]:
    monkeypatch.setattr(FakeRecogniser, "created", [], raising=False)
    monkeypatch.setattr(FakeRecogniser, "recognised", [], raising=False)
    monkeypatch.setattr(recognition, "Recogniser", FakeRecogniser)
    return FakeRecogniser
