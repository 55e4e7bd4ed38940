"""Audio is what the file holds: the mix of its channels, the right stream, and all of it."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import opensmile
import pytest
from av.stream import Disposition
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import NoAudioStream, SilentAudio, TruncatedMedia, UnreadableMedia
from ecmf_pipeline.media.audio import read_audio
from ecmf_pipeline.media.config import SAMPLE_RATE, MediaConfig
from ecmf_pipeline.media.containers import probe_media
from tests.media import sounds

Samples = NDArray[np.float64]

CASES = sounds.all_cases()
DRAWN = [CASES[index] for index in np.random.default_rng(0).permutation(len(CASES))[: len(CASES) // 10]]


def tone(hertz: float, seconds: float = 2, rate: int = SAMPLE_RATE, amplitude: float = 0.3) -> Samples:
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def write(
    path: Path | io.BytesIO,
    *tracks: Sequence[Samples],
    codec: str = "pcm_f32le",
    layout: str = "",
    rate: int = SAMPLE_RATE,
    flags: Sequence[Disposition] = (),
    pictures: float = 0,
    **options: str,
) -> Any:
    """Write audio streams, each of them a list of channels, and seconds of pictures."""
    file: Any = str(path) if isinstance(path, Path) else path
    with av.open(file, "w", format=None if isinstance(path, Path) else "wav", options=options) as container:
        film = container.add_stream("flv" if ".flv" in str(path) else "mpeg4", rate=25) if pictures else None
        streams = []
        for index, channels in enumerate(tracks):
            name = layout or {1: "mono", 2: "stereo", 6: "5.1"}[len(channels)]
            streams.append((container.add_stream(codec, rate=rate, layout=name), name))
            streams[-1][0].bit_rate = 128_000
            if flags:
                streams[-1][0].disposition = flags[index]
        packets: list[Any] = []
        if film:
            film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
            rng = np.random.default_rng(0)
            for _ in range(round(25 * pictures)):
                picture = rng.integers(0, 255, (48, 64, 3), np.uint8)
                packets += film.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
            packets += film.encode()
        for (stream, name), channels in zip(streams, tracks, strict=True):
            size = len(channels[0])
            for start in range(0, size, 1024) if size else ():
                part = np.stack([channel[start : start + 1024] for channel in channels], axis=1).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(part.reshape(1, -1), format="flt", layout=name)
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                packets += stream.encode(frame)
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def read(path: Path, **settings: Any) -> NDArray[np.float32]:
    return read_audio(path, MediaConfig(**settings))


def pitch(samples: NDArray[np.float32]) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * SAMPLE_RATE / len(samples))


def power(samples: NDArray[Any]) -> float:
    return float(np.sqrt((samples.astype(np.float64) ** 2).mean()))


@pytest.mark.parametrize("case", DRAWN, ids=lambda case: case.name)
def test_audio_is_the_mean_of_the_decoded_channels(case: sounds.SoundCase, tmp_path: Path) -> None:
    """A tenth of the cases; the slow test and `python -m tools.soak.matrix` check all."""
    assert sounds.check(case, tmp_path) is None


@pytest.mark.slow
@pytest.mark.parametrize("remainder", range(8))
def test_all_cases(remainder: int, tmp_path: Path) -> None:
    assert len(CASES) >= 300
    assert [fault for case in CASES[remainder::8] if (fault := sounds.check(case, tmp_path))] == []


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_f32le"])
@pytest.mark.parametrize("layout", ["mono", "stereo", "2.1", "5.1", "7.1", "3 channels"])
def test_loudness_is_independent_of_the_number_of_channels(tmp_path: Path, layout: str, codec: str) -> None:
    voice = tone(220, amplitude=0.9)
    path = write(tmp_path / "a.mkv", [voice] * av.AudioLayout(layout).nb_channels, codec=codec, layout=layout)
    np.testing.assert_allclose(read(path), voice, atol=1e-4)


def test_channels_that_cancel_each_other_are_not_silent(tmp_path: Path) -> None:
    voice = tone(220)
    offset = 0.02  # of both channels; it must not pass for their mix
    path = write(tmp_path / "a.mkv", [offset + 0.8 * voice, offset - voice])
    np.testing.assert_allclose(read(path), offset - voice, atol=1e-6)
    path = write(tmp_path / "b.mkv", [voice, -voice], rate=48_000)
    assert power(read(path)) == pytest.approx(power(voice), rel=0.01)


def test_one_decision_about_cancelled_channels_for_the_whole_clip(tmp_path: Path) -> None:
    voice = tone(220)
    half = np.arange(len(voice)) < len(voice) // 2
    path = write(tmp_path / "a.mkv", [voice, np.where(half, voice, -voice)])
    np.testing.assert_allclose(read(path), np.where(half, voice, 0), atol=1e-6)


def test_low_frequency_effects_do_not_replace_cancelled_voices(tmp_path: Path) -> None:
    voice, none = tone(220, amplitude=0.05), np.zeros(2 * SAMPLE_RATE)
    path = write(tmp_path / "a.mkv", [voice, -0.99 * voice, none, 0.01 * tone(40), none, none])
    np.testing.assert_allclose(read(path), voice, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((Disposition(0), Disposition.default), 900),
        ((Disposition.default, Disposition(0)), 300),
        ((Disposition.comment, Disposition(0)), 900),
        ((Disposition.default | Disposition.visual_impaired, Disposition.default), 900),
        ((Disposition.default, Disposition.default), 300),
    ],
)
def test_the_stream_that_players_choose_is_read(tmp_path: Path, flags: Sequence[Disposition], expected: float) -> None:
    path = write(tmp_path / "a.mkv", [tone(300)], [tone(900)], flags=flags)
    assert pitch(read(path)) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("first", [np.zeros(0), np.zeros(2 * SAMPLE_RATE)])
def test_an_empty_or_silent_stream_hides_no_other(tmp_path: Path, first: Samples) -> None:
    flags = (Disposition.default, Disposition(0))
    path = write(tmp_path / "a.mkv", [first], [tone(900)], flags=flags)
    assert pitch(read(path)) == pytest.approx(900, abs=1)
    path = write(tmp_path / "b.mkv", [first], [first], flags=flags, pictures=0.2)
    with pytest.raises(SilentAudio if len(first) else NoAudioStream):
        read(path)


def test_a_stream_without_a_decoder_is_unreadable_unless_another_can_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", [tone(300)], codec="aac")
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_ZZZ"))
    with pytest.raises(UnreadableMedia):
        read(path)
    path = write(tmp_path / "b.mkv", [tone(300)], [tone(900)], codec="aac")
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_ZZZ", 1))
    assert pitch(read(path)) == pytest.approx(900, abs=1)


TRUNCATED = {
    "mp4": ("aac", {"movflags": "faststart"}),
    "mkv": ("aac", {}),
    "webm": ("libopus", {}),
    "flv": ("libmp3lame", {}),
    "avi": ("libmp3lame", {}),
    "wav": ("pcm_s16le", {}),
    "float.wav": ("pcm_f32le", {}),
    "aiff": ("pcm_s16be", {}),
    "flac": ("flac", {}),
    "mp3": ("libmp3lame", {}),
    "wma": ("wmav2", {}),
}


@pytest.mark.parametrize(
    ("suffix", "pictures"), [*((suffix, 0) for suffix in TRUNCATED), ("mp4", 4), ("mkv", 4), ("flv", 4), ("avi", 4)]
)
def test_truncation_is_noticed_in_every_container(tmp_path: Path, suffix: str, pictures: int) -> None:
    codec, options = TRUNCATED[suffix]
    rate = 48_000 if codec == "libopus" else 44_100
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * rate)
    path = write(tmp_path / f"a.{suffix}", [noise], codec=codec, rate=rate, pictures=pictures, **options)
    assert len(read(path)) / SAMPLE_RATE == pytest.approx(4, abs=0.11)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TruncatedMedia) as caught:
        read(path)
    assert caught.value.limit == pytest.approx(0.5, abs=0.1)
    probe = probe_media(path)
    assert probe.duration == pytest.approx(4, abs=0.3)
    assert probe.readable == pytest.approx(2, abs=0.3)
    path.write_bytes(whole[: int(0.96 * len(whole))])
    assert 3.6 <= len(read(path)) / SAMPLE_RATE <= 4.1


def test_audio_may_be_shorter_than_the_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", [tone(300, seconds=1)], codec="aac", pictures=4)
    assert len(read(path)) / SAMPLE_RATE == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_sound_with_a_gap_is_not_truncated(tmp_path: Path, suffix: str) -> None:
    """Browsers and editors leave out what is muted; the declared length includes it."""
    whole = write(tmp_path / f"whole.{suffix}", [tone(300, seconds=2)], codec="aac")
    path = tmp_path / f"a.{suffix}"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = source.streams.audio[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                delay = int(4 / stream.time_base) if packet.pts * stream.time_base >= 1 else 0
                packet.pts, packet.dts, packet.stream = packet.pts + delay, packet.dts + delay, copy
                target.mux(packet)
    assert probe_media(path).duration == pytest.approx(6, abs=0.2)
    samples = read(path)
    assert len(samples) / SAMPLE_RATE == pytest.approx(2, abs=0.1)
    assert pitch(samples) == pytest.approx(300, abs=1)


@pytest.mark.parametrize("declared", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_placeholder_is_not_a_declared_size(tmp_path: Path, declared: int) -> None:
    """Recorders that write to a pipe do not know the size when they write the header."""
    path = write(tmp_path / "a.wav", [tone(300)], codec="pcm_s16le")
    content = bytearray(path.read_bytes())
    data = content.index(b"data")
    content[4:8] = content[data + 4 : data + 8] = declared.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    assert len(read(path)) == 2 * SAMPLE_RATE


def test_a_length_estimated_from_the_bit_rate_is_not_declared(tmp_path: Path) -> None:
    """Raw AAC that starts loud seems to be longer or shorter than it is."""
    noise = np.random.default_rng(0).normal(0, 0.2, 10 * SAMPLE_RATE)
    noise[: 7 * SAMPLE_RATE] *= 1e-4
    path = write(tmp_path / "a.aac", [noise], codec="aac")
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert stream.duration * stream.time_base * 0.9 > 10.2
    assert len(read(path)) / SAMPLE_RATE == pytest.approx(10, abs=0.15)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e5, 3e38])
@pytest.mark.parametrize("rate", [SAMPLE_RATE, 44_100])
def test_samples_that_are_no_audio_are_refused(tmp_path: Path, value: float, rate: int) -> None:
    voice = tone(300)
    voice[100] = value
    path = write(tmp_path / "a.wav", [voice, tone(300)], rate=rate)
    with pytest.raises(UnreadableMedia, match=r"samples of"):
        read(path)


def test_loud_samples_are_clipped(tmp_path: Path) -> None:
    voice = tone(300, amplitude=1.5)
    np.testing.assert_allclose(read(write(tmp_path / "a.wav", [voice])), voice.clip(-1, 1), atol=1e-6)
    samples = read(write(tmp_path / "b.wav", [voice], rate=48_000))
    assert (samples.min(), samples.max()) == (-1, 1)


@pytest.mark.parametrize("rate", [0, 1, 100, 2**31 - 1])
def test_absurd_sampling_rates_are_refused(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.wav", [tone(300)], codec="pcm_s16le")
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(UnreadableMedia):
        read(path)


@pytest.mark.parametrize(
    ("suffix", "codec", "parts"),
    [
        ("aac", "aac", [(16_000, 1), (48_000, 2)]),
        ("ts", "aac", [(44_100, 2), (16_000, 1)]),
        ("ac3", "ac3", [(48_000, 6), (48_000, 2), (44_100, 1)]),
    ],
)
def test_rate_and_layout_may_change_midway(
    tmp_path: Path, suffix: str, codec: str, parts: list[tuple[int, int]]
) -> None:
    content, separate = b"", []
    for index, (rate, count) in enumerate(parts):
        path = write(
            tmp_path / f"{index}.{suffix}", [tone(300 * (index + 1), rate=rate)] * count, codec=codec, rate=rate
        )
        content += path.read_bytes()
        separate.append(read(path))
    path = tmp_path / f"all.{suffix}"
    path.write_bytes(content)
    samples = read(path)
    assert len(samples) == sum(map(len, separate))
    begin = 0
    for index, part in enumerate(separate):
        inner = samples[begin + 1600 : begin + len(part) - 1600]
        assert pitch(inner) == pytest.approx(300 * (index + 1), abs=2)
        assert power(inner) == pytest.approx(power(part[1600:-1600]), rel=0.02)
        begin += len(part)


@pytest.mark.parametrize(
    ("suffix", "codec", "rate"),
    [
        ("mp4", "aac", 16_000),
        ("mp4", "aac", 44_100),
        ("mp3", "libmp3lame", 44_100),
        ("opus", "libopus", 48_000),
        ("webm", "libopus", 48_000),
        ("wav", "pcm_s16le", 44_100),
        ("flac", "flac", 48_000),
    ],
)
def test_priming_samples_are_skipped(tmp_path: Path, suffix: str, codec: str, rate: int) -> None:
    voice = sounds.SoundCase(sounds.Coding(suffix, codec, ("flt",)), "flt", "mono", rate).samples()[0]
    samples = read(write(tmp_path / f"a.{suffix}", [voice], codec=codec, rate=rate)).astype(np.float64)
    true = sounds.resample(voice, rate)
    assert 0 <= len(samples) - len(true) <= 1100
    lags = np.correlate(samples, true, "full").argmax() - (len(true) - 1)
    assert abs(lags) <= 1


def test_memory_is_that_of_the_result(tmp_path: Path) -> None:
    rate = 48_000
    path = write(tmp_path / "a.wav", [tone(300, 60, rate), -tone(300, 60, rate)], codec="pcm_s16le", rate=rate)
    tracemalloc.start()
    try:
        samples = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * samples.nbytes


FEATURES = {
    "feature_set": opensmile.FeatureSet.eGeMAPSv02,
    "feature_level": opensmile.FeatureLevel.Functionals,
}
STABLE = [
    "loudness_sma3_amean",
    "F0semitoneFrom27.5Hz_sma3nz_amean",
    "F0semitoneFrom27.5Hz_sma3nz_percentile50.0",
    "alphaRatioV_sma3nz_amean",
    "hammarbergIndexV_sma3nz_amean",
    "spectralFlux_sma3_amean",
    "equivalentSoundLevel_dBp",
]
"""Features that a change of the samples by one thousandth does not change by a per cent, as it does the others."""


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "counts"),
    [
        ("wav", "pcm_s16le", 16_000, (1, 2, 6)),
        ("wav", "pcm_s24le", 16_000, (2, 6)),
        ("wav", "pcm_f32le", 16_000, (2, 6)),
        ("wav", "pcm_u8", 16_000, (2,)),
        ("flac", "flac", 16_000, (2, 6)),
        ("wav", "pcm_s16le", 48_000, (2, 6)),
        ("flac", "flac", 44_100, (2,)),
        ("mp3", "libmp3lame", 44_100, (2,)),
    ],
)
def test_features_are_those_of_opensmile_itself(
    tmp_path: Path, suffix: str, codec: str, rate: int, counts: Sequence[int], speech: Callable[..., Samples]
) -> None:
    ours = opensmile.Smile(**FEATURES)
    for count in counts:
        channels = [(1 - 0.1 * index) * speech(rate) for index in range(count)]
        path = write(tmp_path / f"{count}.{suffix}", channels, codec=codec, rate=rate)
        theirs = opensmile.Smile(
            **FEATURES, sampling_rate=SAMPLE_RATE, resample=True, mixdown=True, channels=list(range(count))
        )
        expected = theirs.process_file(str(path))
        actual = ours.process_signal(read(path), SAMPLE_RATE)
        names = list(expected.columns) if rate == SAMPLE_RATE else STABLE
        np.testing.assert_allclose(actual[names].to_numpy()[0], expected[names].to_numpy()[0], rtol=0.01)


@pytest.fixture(scope="module")
def speech() -> Callable[[int], Samples]:
    """Return a function that makes two seconds of a vowel with an intonation."""

    def make(rate: int) -> Samples:
        time = np.arange(2 * rate) / rate
        phase = 2 * np.pi * np.cumsum(120 + 15 * np.sin(4 * time)) / rate
        formants = ((600, 1.0), (1200, 0.5), (2500, 0.25))
        voice = np.zeros_like(time)
        for order in range(1, 28):
            gain = sum(level * np.exp(-(((120 * order - centre) / 150) ** 2)) for centre, level in formants)
            voice += (gain + 0.02 / order) * np.sin(order * phase)
        envelope = 0.55 + 0.45 * np.sin(2 * np.pi * 2.3 * time)
        return 0.15 * envelope * voice

    return make
