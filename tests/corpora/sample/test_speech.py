from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecmf_pipeline.corpora.sample.plan import Prosody
from ecmf_pipeline.corpora.sample.scene import Voice
from ecmf_pipeline.corpora.sample.speech import SAMPLE_RATE, Synthesizer, add_room_noise, loudness, speak_within

VOICE = Voice(hertz=(100, 150), formants=(100, 100, 100), tone=90, rate=175, pitch=42, span=50, room=-55)
LINE = "The bus stops here every twenty minutes."


def test_speech_does_not_depend_on_previous_calls(synthesizer: Synthesizer) -> None:
    first = synthesizer.speak(LINE, VOICE, Prosody())
    synthesizer.speak("Wow! Really?", replace(VOICE, hertz=(150, 240), tone=60), Prosody(pitch=40, span=30))
    assert np.array_equal(synthesizer.speak(LINE, VOICE, Prosody()), first)


def test_prosody_changes_the_sound(synthesizer: Synthesizer) -> None:
    plain = synthesizer.speak(LINE, VOICE, Prosody())
    assert len(synthesizer.speak(LINE, VOICE, Prosody(rate=60))) < 0.85 * len(plain)
    louder = synthesizer.speak(LINE, VOICE, Prosody(gain=6))
    assert np.sqrt(np.mean(louder**2) / np.mean(plain**2)) == pytest.approx(2, rel=0.1)
    assert pitch(synthesizer.speak(LINE, VOICE, Prosody(pitch=40))) > 1.15 * pitch(plain)


def pitch(samples: np.ndarray) -> float:
    """Estimate the fundamental frequency by autocorrelation, in hertz."""
    spectrum = np.abs(np.fft.rfft(samples, 2 * len(samples))) ** 2
    lags = np.fft.irfft(spectrum)[SAMPLE_RATE // 400 : SAMPLE_RATE // 60]
    return float(SAMPLE_RATE / (np.argmax(lags) + SAMPLE_RATE // 400))


@pytest.mark.parametrize("seconds", [0.3, 1.5, 4.0])
def test_speech_fits_into_the_given_time(synthesizer: Synthesizer, seconds: float) -> None:
    samples = speak_within(synthesizer, LINE, VOICE, Prosody(rate=-40), seconds)
    assert 0 < len(samples) <= seconds * SAMPLE_RATE
    assert np.abs(samples).max() > 0.1


def test_room_noise_surrounds_speech() -> None:
    speech = np.full(1000, 0.5, np.float32)
    sound = add_room_noise(speech, 2000, 8000, -60, np.random.default_rng(0))
    assert sound.shape == (8000,)
    assert np.sqrt(np.mean(sound[:2000] ** 2)) == pytest.approx(0.001, rel=0.2)
    assert sound[2000:3000].mean() == pytest.approx(0.5, abs=0.01)


def test_loudness_follows_the_speech() -> None:
    sound = np.concatenate([np.zeros(6400), np.full(6400, 0.3)]).astype(np.float32)
    curve = loudness(sound, 20)
    assert curve.shape == (20,)
    assert curve[:9].max() == 0
    assert curve[12:18].min() == pytest.approx(1)
