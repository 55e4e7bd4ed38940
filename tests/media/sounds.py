"""Synthetic sounds in many sample formats, layouts, codecs and containers, and a check of `read_audio` for each."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from ecmf_pipeline.media.audio import keep_layout, read_audio
from ecmf_pipeline.media.config import SAMPLE_RATE, MediaConfig

SECONDS = 0.7
LAYOUTS = ("mono", "stereo", "2.1", "quad", "5.1", "7.1", "3 channels", "hexadecagonal")
RATES = (16_000, 44_100, 48_000, 8_000, 32_000, 96_000, 22_050, 11_025)

_TOLERANCE = 0.005
"""Allowed error relative to the sound, both as root mean square."""

_EDGE = 160
"""Samples at each end that depend on what a resampler assumes outside of the sound."""

_EDGE_TOLERANCE = 0.03

_NUMPY_FORMATS: dict[str, tuple[type[np.generic], float]] = {
    "u8": (np.uint8, 2.0**7),
    "s16": (np.int16, 2.0**15),
    "s32": (np.int32, 2.0**31),
    "flt": (np.float32, 1.0),
    "dbl": (np.float64, 1.0),
}


@dataclass(frozen=True)
class Coding:
    """How to store a sound.

    Attributes:
        container: File extension.
        codec: Encoder.
        formats: Sample formats that the encoder accepts; a case is made of each.
        layouts: Layouts that the encoder accepts.
        rates: Sampling rates that it accepts.
        is_lossless: Whether the decoded samples are those that were encoded.
        options: Options of the encoder.
    """

    container: str
    codec: str
    formats: tuple[str, ...]
    layouts: tuple[str, ...] = LAYOUTS
    rates: tuple[int, ...] = RATES
    is_lossless: bool = True
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class SoundCase:
    """One file.

    Attributes:
        coding: How the sound is stored.
        sample_format: Sample format of the encoder.
        layout: FFmpeg's name of the channel layout.
        rate: Hertz.
        content: ``voices`` (each channel differs), ``inverted`` (the channels cancel) or ``one`` (the last sounds).
    """

    coding: Coding
    sample_format: str
    layout: str
    rate: int
    content: str = "voices"

    @property
    def name(self) -> str:
        """Return the file name."""
        words = (self.coding.codec, self.sample_format, self.layout, self.rate, self.content)
        return "-".join(str(word).replace(" ", "_") for word in words) + f".{self.coding.container}"

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return av.AudioLayout(self.layout).nb_channels

    def samples(self) -> NDArray[np.float64]:
        """Return the sound before it is encoded, (C, n) in [-1, 1]. It has no frequencies above 3.5 kHz."""
        time = np.arange(int(SECONDS * self.rate)) / self.rate
        voices = [_voice(time, channel) for channel in range(self.channels)]
        if self.content == "inverted":
            voices = [voices[0] * (0.95 if channel else 1) * (-1) ** channel for channel in range(self.channels)]
        elif self.content == "one":
            voices = [*(0 * voice for voice in voices[:-1]), voices[-1]]
        return np.stack(voices)


_FEW = ("mono", "stereo")
_TO_5_1 = ("mono", "stereo", "quad", "5.1")
_TO_7_1 = (*_TO_5_1, "7.1")
_HIGH_RATES = (48_000, 44_100, 32_000)
_AAC_RATES = (16_000, 48_000, 44_100, 22_050, 96_000)
_OPUS_RATES = (48_000, 16_000, 24_000)
_MP3_RATES = (44_100, 16_000, 48_000, 22_050)

_LOSSLESS = (
    Coding("wav", "pcm_u8", ("u8",)),
    Coding("wav", "pcm_s16le", ("s16",)),
    Coding("wav", "pcm_s24le", ("s32",)),
    Coding("wav", "pcm_s32le", ("s32",)),
    Coding("wav", "pcm_f32le", ("flt",)),
    Coding("wav", "pcm_f64le", ("dbl",)),
    Coding("wav", "pcm_s64le", ("s64",)),
    Coding("mkv", "pcm_u8", ("u8",)),
    Coding("mkv", "pcm_s16le", ("s16",)),
    Coding("mkv", "pcm_s24be", ("s32",)),
    Coding("mkv", "pcm_f32le", ("flt",)),
    Coding("mov", "pcm_s16be", ("s16",)),
    Coding("mov", "pcm_s24le", ("s32",)),
    Coding("mov", "pcm_f64be", ("dbl",)),
    Coding("avi", "pcm_s16le", ("s16",)),
    Coding("avi", "pcm_f32le", ("flt",)),
    Coding("aiff", "pcm_s8", ("u8",)),
    Coding("aiff", "pcm_s16be", ("s16",)),
    Coding("aiff", "pcm_f32be", ("flt",)),
    Coding("caf", "pcm_s16le", ("s16",)),
    Coding("w64", "pcm_s24le", ("s32",)),
    Coding("au", "pcm_s16be", ("s16",)),
    Coding("nut", "pcm_s16le_planar", ("s16p",)),
    Coding("nut", "pcm_s32le_planar", ("s32p",)),
    Coding("flac", "flac", ("s16", "s32"), _TO_7_1),
    Coding("mkv", "flac", ("s16",), _TO_7_1),
    Coding("mp4", "flac", ("s32",), _TO_7_1, options=(("strict", "-2"),)),
    Coding("m4a", "alac", ("s16p", "s32p"), ("mono", "stereo", "5.1")),
    Coding("wv", "wavpack", ("u8p", "s16p", "s32p", "fltp"), _TO_7_1),
    Coding("tta", "tta", ("u8", "s16", "s32"), _TO_5_1),
)

_LOSSY = (
    Coding("wav", "pcm_alaw", ("s16",), is_lossless=False),
    Coding("wav", "pcm_mulaw", ("s16",), is_lossless=False),
    Coding("wav", "adpcm_ms", ("s16",), _FEW, is_lossless=False),
    Coding("wav", "adpcm_ima_wav", ("s16p",), _FEW, is_lossless=False),
    Coding("mp4", "aac", ("fltp",), _TO_7_1, _AAC_RATES, is_lossless=False),
    Coding("mkv", "aac", ("fltp",), _TO_7_1, _AAC_RATES, is_lossless=False),
    Coding("ts", "aac", ("fltp",), _TO_5_1, _AAC_RATES, is_lossless=False),
    Coding("aac", "aac", ("fltp",), _TO_5_1, _AAC_RATES, is_lossless=False),
    Coding("flv", "aac", ("fltp",), _FEW, (44_100, 22_050), is_lossless=False),
    Coding("mp3", "libmp3lame", ("s16p", "s32p", "fltp"), _FEW, _MP3_RATES, is_lossless=False),
    Coding("avi", "libmp3lame", ("fltp",), _FEW, _MP3_RATES, is_lossless=False),
    Coding("mkv", "libmp3lame", ("s16p",), _FEW, _MP3_RATES, is_lossless=False),
    Coding("mp4", "libmp3lame", ("s16p",), _FEW, _MP3_RATES, is_lossless=False),
    Coding("mpg", "mp2", ("s16",), _FEW, (48_000, 44_100, 32_000), is_lossless=False),
    Coding("opus", "libopus", ("s16", "flt"), _TO_7_1, _OPUS_RATES, is_lossless=False),
    Coding("webm", "libopus", ("flt",), _TO_7_1, _OPUS_RATES, is_lossless=False),
    Coding("mp4", "libopus", ("s16",), _TO_7_1, _OPUS_RATES, is_lossless=False),
    Coding("ogg", "vorbis", ("fltp",), ("stereo",), _HIGH_RATES, is_lossless=False, options=(("strict", "-2"),)),
    Coding("mkv", "ac3", ("fltp",), _TO_5_1, _HIGH_RATES, is_lossless=False),
    Coding("ac3", "ac3", ("fltp",), _TO_5_1, _HIGH_RATES, is_lossless=False),
    Coding("ts", "eac3", ("fltp",), _TO_5_1, _HIGH_RATES, is_lossless=False),
    Coding("wma", "wmav2", ("fltp",), _FEW, (44_100, 22_050), is_lossless=False),
    Coding("3gp", "libopencore_amrnb", ("s16",), ("mono",), (8_000,), is_lossless=False),
    Coding("wav", "g722", ("s16",), ("mono",), (16_000,), is_lossless=False),
)


def all_cases() -> list[SoundCase]:
    """Return all cases; the rates take turns."""
    cases = []
    for coding in _LOSSLESS + _LOSSY:
        for sample_format in coding.formats:
            for layout in coding.layouts:
                rate = coding.rates[len(cases) % len(coding.rates)]
                cases.append(SoundCase(coding, sample_format, layout, rate))
    cancelling = [case for case in cases if case.layout in {"stereo", "quad", "5.1", "3 channels"}]
    cases += [
        SoundCase(case.coding, case.sample_format, case.layout, case.rate, "inverted") for case in cancelling[::5]
    ]
    surround = [case for case in cases if case.layout in {"5.1", "7.1", "hexadecagonal"}]
    cases += [SoundCase(case.coding, case.sample_format, case.layout, case.rate, "one") for case in surround[::5]]
    return [case for case in cases if _has_encoder(case.coding.codec)]


def check(case: SoundCase, folder: Path) -> str | None:
    """Write the file of a case and read it.

    Returns:
        None if the audio is right; otherwise what is wrong.
    """
    path = write(case, folder / case.name)
    actual = read_audio(path, MediaConfig()).astype(np.float64)
    decoded, rate = decode(path)
    if faults := _faults(actual, mix(decoded, case.layout), rate):
        return f"{case.name}: not the mix of the decoded channels: {faults}"
    if case.coding.is_lossless:
        quantised = 2.0**-6 if case.sample_format.startswith("u8") else 0.0
        if faults := _faults(actual, mix(case.samples(), case.layout), case.rate, extra=quantised):
            return f"{case.name}: not the mix of the encoded channels: {faults}"
    return None


def write(case: SoundCase, path: Path) -> Path:
    """Encode the sound of a case into a file."""
    options = dict(case.coding.options)
    with av.open(str(path), "w", options={"strict": "-2"} if "strict" in options else {}) as container:
        stream: Any = container.add_stream(case.coding.codec, rate=case.rate, layout=case.layout, options=options)
        stream.format = case.sample_format
        if not case.coding.is_lossless and case.coding.codec not in {"libopencore_amrnb", "g722"}:
            stream.bit_rate = 64_000 * case.channels
        container.mux([*stream.encode(_frame(case)), *stream.encode()])
    return path


def decode(path: Path) -> tuple[NDArray[np.float64], int]:
    """Decode a file from start to end, without the code under test: samples, (C, n), and the sampling rate."""
    blocks, rates, to_packed = [], set(), None
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            keep_layout(frame)
            rates.add(frame.sample_rate)
            to_packed = to_packed or av.AudioResampler("dbl", frame.layout.name, frame.sample_rate)
            for output in to_packed.resample(frame):
                keep_layout(output)
                blocks.append(output.to_ndarray().reshape(-1, frame.layout.nb_channels))
    (rate,) = rates
    return np.concatenate(blocks).T, rate


def mix(channels: NDArray[np.float64], layout: str) -> NDArray[np.float64]:
    """Return the expected mix of channels, (C, n): the mean; the loudest one if the mean has 12 dB less power."""
    mean = channels.mean(axis=0)
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    powers = np.array([0 if name == "LFE" else row.var() for name, row in zip(names, channels, strict=True)])
    return channels[powers.argmax()] if 10 * np.log10(max(mean.var(), 1e-30) / powers.max()) < -12 else mean


def resample(mono: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """Return samples, (n,), at 16 kHz."""
    divisor = np.gcd(rate, SAMPLE_RATE)
    resampled: NDArray[np.float64] = resample_poly(
        mono, SAMPLE_RATE // divisor, rate // divisor, window=("kaiser", 9.0), padtype="line"
    )
    return resampled


def _faults(actual: NDArray[np.float64], mono: NDArray[np.float64], rate: int, extra: float = 0.0) -> str:
    """Compare audio at 16 kHz with the expected mix at its own rate."""
    expected = resample(mono, rate)
    if abs(len(actual) - len(mono) * SAMPLE_RATE / rate) > 1:
        return f"{len(actual)} samples, not {len(mono) * SAMPLE_RATE / rate:.1f}"
    count = min(len(actual), len(expected))
    errors = actual[:count] - expected[:count].clip(-1, 1)
    scale = np.sqrt((expected**2).mean())
    middle, edges = errors[_EDGE:-_EDGE], np.concatenate([errors[:_EDGE], errors[-_EDGE:]])
    inner, outer = (float(np.sqrt((part**2).mean()) / scale) for part in (middle, edges))
    if inner > _TOLERANCE + extra / scale:
        return f"the error is {inner:.3f} of the sound"
    if outer > _EDGE_TOLERANCE + extra / scale:
        return f"the error at the ends is {outer:.3f} of the sound"
    return ""


def _voice(time: NDArray[np.float64], channel: int) -> NDArray[np.float64]:
    """Return a tone with overtones, vibrato and beats, which starts and ends abruptly."""
    base = 110 + 37 * channel
    phase = 2 * np.pi * base * time + 0.4 * np.sin(2 * np.pi * 5 * time) + channel
    overtones = sum(np.sin(order * phase) / order for order in (1, 2, 3, 5))
    loudness = (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time + channel)) * (0.2 + 0.02 * (channel % 5))
    return loudness * overtones


def _frame(case: SoundCase) -> Any:
    """Return the sound as a frame of a packed format; PyAV converts it for the encoder."""
    name = case.sample_format.removesuffix("p")
    name = "s32" if name == "s64" else name
    dtype, full_scale = _NUMPY_FORMATS[name]
    samples = case.samples().T.reshape(1, -1) * full_scale
    if np.issubdtype(dtype, np.integer):
        samples = np.round(samples) + (128 if name == "u8" else 0)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.astype(dtype)), format=name, layout=case.layout)
    frame.sample_rate, frame.pts, frame.time_base = case.rate, 0, Fraction(1, case.rate)
    return frame


def _has_encoder(codec: str) -> bool:
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True
