"""Synthesise the sound of a clip: speech by eSpeak NG, called through ctypes, and room noise."""

from __future__ import annotations

import ctypes
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import espeakng_loader
import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from ecmf_pipeline.corpora.sample.plan import Prosody
from ecmf_pipeline.corpora.sample.scene import Voice

SAMPLE_RATE = 16_000
"""Samples per second of all sound that this module returns."""

LEVEL = 0.09
"""Root mean square of speech at a gain of 0 dB; full scale is 1."""

_SYNCHRONOUS, _UTF8, _BY_CHARACTER = 2, 1, 1  # espeak_AUDIO_OUTPUT, espeakCHARS_*, espeak_POSITION_TYPE
_RATE, _VOLUME, _PITCH, _SPAN = 1, 2, 3, 4  # espeak_PARAMETER of speak_lib.h
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

# Flutter, roughness and breath are off: their random state persists between calls of the library.
_VOICE_FILE = """\
name sample
language en-us
dictionary en
phonemes en-us
dictrules 3 6
stressLength 140 120 190 170 0 0 255 300
stressAmp 17 16 19 19 19 19 21 19
flutter 0
roughness 0
pitch {low} {high}
formant 1 {first} 100 100
formant 2 {second} 100 100
formant 3 {third} 100 100
tone 600 170 1200 135 2000 {tone} 4000 {tone}
"""


class Synthesizer:
    """Speech synthesis by eSpeak NG. Use one instance per process at a time: the library has global state.

    Raises:
        RuntimeError: If the library does not start.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._received: list[NDArray[np.int16]] = []
        self._callback = _CALLBACK(self._receive)  # keeps a reference: the library stores only the address
        self._folder = tempfile.TemporaryDirectory(prefix="espeak-voice-")
        self._native_rate = int(
            self._library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
        )
        if self._native_rate <= 0:
            raise RuntimeError("eSpeak NG did not start")
        self._library.espeak_SetSynthCallback(self._callback)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.espeak_Terminate()
        self._folder.cleanup()

    def speak(self, text: str, voice: Voice, prosody: Prosody) -> NDArray[np.float32]:
        """Synthesise ``text`` as mono samples at `SAMPLE_RATE`, without silence at the ends, (n,)."""
        path = Path(self._folder.name) / "voice"
        path.write_text(_voice_file(voice, prosody.effort), encoding="ascii")
        self._call("espeak_SetVoiceByFile", str(path).encode())
        for parameter, value, low, high in (
            (_RATE, voice.rate + prosody.rate, 90, 400),
            (_VOLUME, 70, 0, 200),
            (_PITCH, voice.pitch + prosody.pitch, 0, 99),
            (_SPAN, voice.span + prosody.span, 0, 99),
        ):
            self._call("espeak_SetParameter", parameter, int(np.clip(round(value), low, high)), 0)
        self._received.clear()
        content = text.encode()
        self._call("espeak_Synth", content, len(content) + 1, 0, _BY_CHARACTER, 0, _UTF8, None, None)
        self._call("espeak_Synchronize")
        native = np.concatenate(self._received).astype(np.float64) / 32768
        return _normalise_level(_trim(resample_poly(native, SAMPLE_RATE, self._native_rate)), prosody.gain)

    def _receive(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._received.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def _call(self, function: str, *values: object) -> None:
        if status := getattr(self._library, function)(*values):
            raise RuntimeError(f"{function} of eSpeak NG returned {status}")


def speak_within(
    synthesizer: Synthesizer, text: str, voice: Voice, prosody: Prosody, seconds: float
) -> NDArray[np.float32]:
    """Synthesise ``text`` in at most ``seconds``: raise the rate if it is too long, then cut the end if necessary."""
    for _ in range(3):
        samples = synthesizer.speak(text, voice, prosody)
        excess = len(samples) / (seconds * SAMPLE_RATE)
        if excess <= 1:
            return samples
        faster = (voice.rate + prosody.rate) * (excess * 1.04 - 1)
        prosody = replace(prosody, rate=prosody.rate + faster)
    samples = samples[: int(seconds * SAMPLE_RATE)]
    fade = min(len(samples), SAMPLE_RATE // 50)
    samples[len(samples) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return samples


def add_room_noise(
    speech: NDArray[np.float32], start: int, length: int, room: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add room noise before, during and after speech.

    Args:
        speech: Mono samples, (n,).
        start: Sample at which the speech begins.
        length: Number of samples of the result.
        room: Level of the noise, in dBFS.
        rng: Random generator of the noise.

    Returns:
        Samples within -1..1, (length,).
    """
    white = rng.normal(size=length + 1)
    noise = (white[1:] + white[:-1]) / np.sqrt(2) * 10 ** (room / 20)  # low-pass filtered
    noise[start : start + len(speech)] += speech
    clipped: NDArray[np.float32] = np.clip(noise, -1, 1).astype(np.float32)
    return clipped


def loudness(samples: NDArray[np.float32], frames: int) -> NDArray[np.float64]:
    """Return the smoothed loudness of each of ``frames`` equal segments, relative to the loudest, 0-1, (frames,)."""
    edges = np.linspace(0, len(samples), frames + 1).astype(int)
    power = np.array([np.mean(samples[a:b].astype(np.float64) ** 2) for a, b in pairwise(edges)])
    smooth = np.convolve(np.sqrt(power), [0.25, 0.5, 0.25], mode="same")
    relative: NDArray[np.float64] = smooth / max(float(smooth.max()), 1e-9)
    return relative


def _voice_file(voice: Voice, effort: float) -> str:
    (low, high), (first, second, third) = voice.hertz, voice.formants
    tone = int(np.clip(voice.tone + effort, 20, 250))
    return _VOICE_FILE.format(low=low, high=high, first=first, second=second, third=third, tone=tone)


def _trim(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    loud = np.flatnonzero(np.abs(samples) > 0.003)
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples


def _normalise_level(samples: NDArray[np.float64], gain: float) -> NDArray[np.float32]:
    """Scale speech to `LEVEL` and its gain, with soft clipping of peaks."""
    scaled = samples / max(float(np.sqrt(np.mean(samples**2))), 1e-6) * LEVEL * 10 ** (gain / 20)
    soft: NDArray[np.float32] = np.tanh(scaled).astype(np.float32)
    return soft
