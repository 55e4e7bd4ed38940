"""Generate sound without speech: silence, noise, tones, clicks, drums, music, hum and modulated noise.

All sounds are mono float32 samples at 16 kHz, (n,), and depend only on the kind and the variant.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.media.config import SAMPLE_RATE

VARIANTS = 10
"""Variants of each kind: they differ in random seed, length (1 to 10 s) and level (-60 to -3 dBFS)."""

Floats = NDArray[np.float64]


class Sound(NamedTuple):
    """A generated sound.

    Attributes:
        name: Kind and number of the variant.
        samples: Mono samples at 16 kHz, (n,).
    """

    name: str
    samples: NDArray[np.float32]


def sounds_without_speech(variants: int = VARIANTS) -> Iterator[Sound]:
    """Yield ``variants`` sounds of each of the 20 kinds."""
    for kind, make in KINDS.items():
        for variant in range(variants):
            rng = np.random.default_rng([zlib.crc32(kind.encode()), variant])
            seconds = float(rng.uniform(1, 10))
            level = float(np.linspace(-60, -3, VARIANTS)[(variant * 7 + 3) % VARIANTS])
            samples = make(np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE, rng)
            peak = float(np.abs(samples).max(initial=0.0))
            scaled = samples / peak * 10 ** (level / 20) if peak else samples
            yield Sound(f"{kind}-{variant}", scaled.astype(np.float32))


def _silence(time: Floats, _rng: np.random.Generator) -> Floats:
    return np.zeros_like(time)


def _coloured(exponent: float) -> Callable[[Floats, np.random.Generator], Floats]:
    """Return a generator of noise whose power falls with frequency to the power of ``exponent``."""

    def make(time: Floats, rng: np.random.Generator) -> Floats:
        spectrum = np.fft.rfft(rng.normal(size=len(time)))
        frequency = np.maximum(np.fft.rfftfreq(len(time), 1 / SAMPLE_RATE), 20)
        noise: Floats = np.fft.irfft(spectrum / frequency ** (exponent / 2), len(time))
        return noise

    return make


def _band_noise(time: Floats, rng: np.random.Generator) -> Floats:
    spectrum = np.fft.rfft(rng.normal(size=len(time)))
    frequency = np.fft.rfftfreq(len(time), 1 / SAMPLE_RATE)
    low = rng.uniform(100, 2000)
    noise: Floats = np.fft.irfft(spectrum * ((frequency > low) & (frequency < 2.5 * low)), len(time))
    return noise


def _babble(time: Floats, rng: np.random.Generator) -> Floats:
    """Return noise of a speech-like spectrum whose loudness changes at the rate of syllables."""
    noise = _coloured(1.5)(time, rng) * np.std(time)
    envelope = np.interp(time, np.arange(0, time[-1] + 1, 0.12), rng.gamma(1.0, 1.0, int((time[-1] + 1) / 0.12) + 1))
    return noise * envelope


def _buzz(time: Floats, rng: np.random.Generator) -> Floats:
    """Return a pitched buzz with two formants that move at random: a voice without words."""
    pitch = np.interp(time, np.arange(0, time[-1] + 1, 0.3), rng.uniform(90, 240, int((time[-1] + 1) / 0.3) + 1))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    first, second = rng.uniform(300, 800), rng.uniform(900, 2400)
    sound = np.zeros_like(time)
    for harmonic in range(1, 20):
        distance = min(abs(harmonic * 150 - first), abs(harmonic * 150 - second))
        sound += np.sin(harmonic * phase) * np.exp(-distance / 300) / harmonic
    return sound


def _tone(time: Floats, rng: np.random.Generator) -> Floats:
    return np.sin(2 * np.pi * rng.uniform(80, 4000) * time)


def _chord(time: Floats, rng: np.random.Generator) -> Floats:
    root = rng.uniform(100, 500)
    return sum((_harmonic(root * ratio, time) for ratio in (1, 1.25, 1.5, 2)), np.zeros_like(time))


def _sweep(time: Floats, rng: np.random.Generator) -> Floats:
    start, end = rng.uniform(50, 500), rng.uniform(1000, 7000)
    return np.sin(2 * np.pi * (start * time + (end - start) * time**2 / (2 * time[-1])))


def _vibrato(time: Floats, rng: np.random.Generator) -> Floats:
    pitch, rate = rng.uniform(150, 900), rng.uniform(3, 8)
    return _harmonic(pitch, time + 0.002 * np.sin(2 * np.pi * rate * time))


def _beeps(time: Floats, rng: np.random.Generator) -> Floats:
    return _tone(time, rng) * (np.sin(2 * np.pi * rng.uniform(0.7, 6) * time) > 0)


def _clicks(time: Floats, rng: np.random.Generator) -> Floats:
    clicks = rng.random(len(time)) < rng.uniform(1, 15) / SAMPLE_RATE
    return np.convolve(clicks * rng.normal(size=len(time)), np.exp(-np.arange(200) / 30), mode="same")


def _hum(time: Floats, rng: np.random.Generator) -> Floats:
    base = float(rng.choice([50, 60]))
    hum = sum((np.sin(2 * np.pi * base * k * time) / k for k in range(1, 8)), np.zeros_like(time))
    return hum + 0.02 * rng.normal(size=len(time))


def _engine(time: Floats, rng: np.random.Generator) -> Floats:
    rate = rng.uniform(20, 70)
    return _coloured(2)(time, rng) * 300 * (1 + np.sin(2 * np.pi * rate * time)) + 0.3 * _harmonic(rate, time)


def _drums(time: Floats, rng: np.random.Generator) -> Floats:
    beat = 60 / rng.uniform(70, 160)
    sound = np.zeros_like(time)
    for number in range(int(time[-1] / beat) + 1):
        since = np.maximum(time - number * beat, 0)
        started = time >= number * beat
        kick = np.sin(2 * np.pi * 60 * since) * np.exp(-since * 12)
        snare = rng.normal(size=len(time)) * np.exp(-since * 25)
        sound += started * (kick if number % 2 == 0 else 0.5 * snare)
    return sound


def _melody(time: Floats, rng: np.random.Generator) -> Floats:
    note = rng.uniform(0.15, 0.5)
    scale = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
    number = (time / note).astype(int)
    pitches = rng.choice(scale, number[-1] + 1) * rng.choice([1, 2])
    phase = 2 * np.pi * np.cumsum(pitches[number]) / SAMPLE_RATE
    decay = np.exp(-(time - number * note) * 4)
    sound: Floats = decay * sum((np.sin(k * phase) / k**1.5 for k in range(1, 7)), np.zeros_like(time))
    return sound


def _band(time: Floats, rng: np.random.Generator) -> Floats:
    return _melody(time, rng) + 0.5 * _chord(time, rng) / 4 + 0.7 * _drums(time, rng)


def _rain(time: Floats, rng: np.random.Generator) -> Floats:
    return _clicks(time, rng) * 3 + 0.1 * rng.normal(size=len(time))


def _wind(time: Floats, rng: np.random.Generator) -> Floats:
    gusts = np.interp(time, np.arange(0, time[-1] + 1, 0.7), rng.uniform(0.1, 1, int((time[-1] + 1) / 0.7) + 1))
    return _coloured(2)(time, rng) * gusts


def _harmonic(pitch: float, time: Floats) -> Floats:
    return sum((np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 6)), np.zeros_like(time))


KINDS: Mapping[str, Callable[[Floats, np.random.Generator], Floats]] = MappingProxyType(
    {
        "silence": _silence,
        "white": _coloured(0),
        "pink": _coloured(1),
        "brown": _coloured(2),
        "band-noise": _band_noise,
        "babble": _babble,
        "buzz": _buzz,
        "tone": _tone,
        "chord": _chord,
        "sweep": _sweep,
        "vibrato": _vibrato,
        "beeps": _beeps,
        "clicks": _clicks,
        "hum": _hum,
        "engine": _engine,
        "drums": _drums,
        "melody": _melody,
        "music": _band,
        "rain": _rain,
        "wind": _wind,
    }
)
