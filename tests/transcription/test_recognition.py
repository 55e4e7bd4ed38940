"""Speech recognition by the embedded Whisper."""

from __future__ import annotations

from pathlib import Path

import jiwer
import numpy as np
import pytest
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.transcription import recognition
from ecmf_pipeline.transcription.config import TranscribeConfig
from ecmf_pipeline.transcription.recognition import Recogniser, check_language, loudness, on_one_line
from ecmf_pipeline.transcription.table import TranscriptRecord, Verdict, assess_transcript
from tests.transcription.fakes import SENTENCE
from tools.speech.__main__ import add_noise, check_sounds, normalise
from tools.speech.sounds import KINDS, sounds_without_speech


def config(folder: Path, **changes: object) -> TranscribeConfig:
    return TranscribeConfig.model_validate({"model": str(folder), "device": "cpu"} | changes)


@pytest.fixture(scope="module")
def recogniser(whisper: Path) -> Recogniser:
    return Recogniser(config(whisper))


def test_words_have_times_and_a_language(recogniser: Recogniser, spoken: NDArray[np.float32]) -> None:
    record = recogniser.recognise("key", spoken)
    (utterance,) = record.utterances
    assert jiwer.wer(normalise(SENTENCE), normalise(utterance.text)) <= 0.2
    assert (record.key, record.language) == ("key", "en")
    assert [word.text for word in utterance.words] == utterance.text.split()
    starts = [word.start for word in utterance.words]
    assert starts == sorted(starts)
    assert starts[0] == pytest.approx(0.5, abs=0.5)
    assert utterance.words[-1].end == pytest.approx(len(spoken) / 16000 - 0.5, abs=0.5)
    assert utterance.loudness == pytest.approx(loudness(spoken[8000:-8000]), abs=1.5)
    assert assess_transcript(record, TranscribeConfig()).verdict is Verdict.USED
    assert recogniser.recognise("key", np.empty(0, np.float32)) == TranscriptRecord("key")


@pytest.mark.slow
def test_two_runs_give_the_same_bytes(whisper: Path, recogniser: Recogniser, spoken: NDArray[np.float32]) -> None:
    noisy = add_noise(spoken, 10, np.random.default_rng(0))
    lines = [recogniser.recognise("key", sound).line() for sound in (spoken, noisy)]
    again = Recogniser(config(whisper), threads=2)
    assert [again.recognise("key", sound).line() for sound in (spoken, noisy)] == lines
    assert recogniser.recognise("key", spoken).line() == lines[0]


@pytest.mark.slow
def test_long_speech_is_recognised_in_blocks(
    recogniser: Recogniser, spoken: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognition, "MAX_BLOCK_SECONDS", 5.0)
    silence = np.zeros(16000 * 4, np.float32)
    record = recogniser.recognise("key", np.concatenate([spoken, silence, spoken, silence, spoken]))
    assert len(record.utterances) == 3
    period = (len(spoken) + len(silence)) / 16000
    for number, utterance in enumerate(record.utterances):
        assert jiwer.wer(normalise(SENTENCE), normalise(utterance.text)) <= 0.2
        assert utterance.words[0].start == pytest.approx(0.5 + number * period, abs=0.6)


@pytest.mark.slow
def test_no_invented_words_are_used(recogniser: Recogniser) -> None:
    """`python -m tools.speech` checks 200 sounds."""
    assert len(KINDS) == 20
    assert len({sound.name for sound in sounds_without_speech()}) == 200
    results = check_sounds(recogniser, recogniser.config, variants=1)
    assert [name for name, transcript in results if transcript.verdict is Verdict.USED] == []


@pytest.mark.slow
@pytest.mark.parametrize(("language", "hint"), [("xx", "en"), ("yue", "zh")])
def test_unknown_language_is_one_clear_error(whisper: Path, language: str, hint: str) -> None:
    with pytest.raises(ModelError) as caught:
        Recogniser(config(whisper, language=language))
    assert f"language {language}" in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_monolingual_model_with_another_language_is_one_clear_error() -> None:
    with pytest.raises(ModelError) as caught:
        check_language(TranscribeConfig(model="org/whisper.en", language="zh"), ["en"])
    assert "English only" in caught.value.message
    check_language(TranscribeConfig(language="en"), ["en"])
    check_language(TranscribeConfig(), ["en"])


def test_text_is_on_one_line() -> None:
    assert on_one_line(" so\n it\x00 is\ufffd ") == "so it is"


def test_loudness_is_in_dbfs() -> None:
    assert loudness(np.full(100, 0.1, np.float32)) == pytest.approx(-20)
    assert loudness(np.zeros(100, np.float32)) == loudness(np.empty(0, np.float32)) == -120
