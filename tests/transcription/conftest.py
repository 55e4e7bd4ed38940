"""Fixtures for speech recognition: a fake recogniser and the embedded model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ecmf_pipeline.core.weights import WHISPER, embedded_model
from ecmf_pipeline.corpora.sample.plan import Prosody
from ecmf_pipeline.corpora.sample.scene import Voice
from ecmf_pipeline.corpora.sample.speech import Synthesizer
from ecmf_pipeline.encoders.embedded.packages import fetch
from ecmf_pipeline.transcription import recognition
from tests.transcription.fakes import SENTENCE, FakeRecogniser


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeRecogniser]:
    """Replace the recogniser by one that needs no weights."""
    for name, value in (("created", 0), ("recognised", []), ("interrupt_after", None)):
        monkeypatch.setattr(FakeRecogniser, name, value)
    monkeypatch.setattr(recognition, "Recogniser", FakeRecogniser)
    return FakeRecogniser


@pytest.fixture(scope="session")
def whisper(models: Path) -> Path:
    """The folder of the embedded Whisper, fetched if it is missing."""
    fetch(embedded_model(WHISPER), models)
    return models / WHISPER


@pytest.fixture(scope="session")
def spoken() -> NDArray[np.float32]:
    """A sentence, spoken by eSpeak NG with half a second of silence at both ends, at 16 kHz, (n,)."""
    voice = Voice(hertz=(100, 150), formants=(100, 100, 100), tone=90, rate=170, pitch=42, span=48, room=-60)
    with Synthesizer() as synthesizer:
        speech = synthesizer.speak(SENTENCE, voice, Prosody())
    silence = np.zeros(8000, np.float32)
    return np.concatenate([silence, speech, silence])
