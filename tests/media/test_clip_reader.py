"""The sound and the pictures of a part of a file are cut from those of the whole file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ecmf_pipeline.core.clips import Half
from ecmf_pipeline.core.errors import NoAudioStream, SilentAudio
from ecmf_pipeline.media import clip_reader
from ecmf_pipeline.media.audio import DecodedSound, read_audio, read_sound
from ecmf_pipeline.media.clip_reader import ClipReader, crop_half
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.timeline import Span

MEDIA = MediaConfig()
RATE = 44_100


def write_sound(path: Path, codec: str, samples: np.ndarray, *, gap: float = 0.0, start: float = 0.0) -> Path:
    """Write mono samples; after half of them, ``gap`` seconds without any."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000 if codec == "libopus" else RATE)
        stream.layout = "mono"
        resampler = av.AudioResampler(stream.format.name, "mono", stream.rate, frame_size=stream.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), "flt", "mono")
        frame.sample_rate = RATE
        position = 0
        for block in (*resampler.resample(frame), *resampler.resample(None)):
            shift = start + gap * (position >= len(samples) * stream.rate / RATE / 2)
            block.pts, block.time_base = position + round(shift * stream.rate), Fraction(1, stream.rate)
            position += block.samples
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def voice() -> np.ndarray:
    time = np.arange(3 * RATE) / RATE
    return 0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("wav", "pcm_s16le"),
        ("mp3", "libmp3lame"),
        ("mp4", "aac"),
        ("mkv", "aac"),
        ("webm", "libopus"),
        ("avi", "pcm_s16le"),
        ("ts", "aac"),
        ("flac", "flac"),
    ],
)
def test_parts_are_samples_of_the_whole(tmp_path, voice, container, codec):
    path = write_sound(tmp_path / f"a.{container}", codec, voice)
    whole, reader = read_audio(path, MEDIA), ClipReader(MEDIA)
    first = 0.5 - read_sound(path, MEDIA).anchors[0][0]
    part = reader.sound(path, Span(0.5, 1.25))
    np.testing.assert_array_equal(part, whole[round(first * 16_000) :][:12_000])
    joined = np.concatenate([reader.sound(path, Span(at, at + 0.5)) for at in (0.5, 1.0, 1.5)])
    np.testing.assert_array_equal(joined, reader.sound(path, Span(0.5, 2)))


def test_a_gap_moves_later_samples(tmp_path, voice):
    path = write_sound(tmp_path / "a.mkv", "pcm_s16le", voice, gap=1.0)
    sound, reader = read_sound(path, MEDIA), ClipReader(MEDIA)
    (_, _), (time, before) = sound.anchors
    assert time - before == pytest.approx(1.0, abs=2e-3)  # Matroska rounds to milliseconds
    first = round((before + 2.6 - time) * 16_000)
    np.testing.assert_array_equal(reader.sound(path, Span(2.6, 3.1)), sound.samples[first : first + 8000])
    with pytest.raises(NoAudioStream):
        reader.sound(path, Span(1.7, 2.3))


def test_times_of_samples_are_the_inverse():
    sound = DecodedSound(np.ones(48_000, np.float32), ((0.2, 0.0), (2.0, 1.5)))
    for seconds in (0.1, 1.4, 1.6, 2.9):
        time = sound.time_of(seconds)
        assert len(sound.part(Span(0.2, time))) == round(seconds * 16_000)


def test_a_silent_part_and_one_beyond_the_end(tmp_path, voice):
    voice[: len(voice) // 2] = 0
    reader = ClipReader(MEDIA)
    path = write_sound(tmp_path / "a.wav", "pcm_s16le", voice)
    with pytest.raises(SilentAudio):
        reader.sound(path, Span(0.1, 1.2))
    with pytest.raises(NoAudioStream):
        reader.sound(path, Span(4, 5))


def test_a_recording_is_decoded_once_for_all_its_parts(tmp_path, voice, monkeypatch):
    reads: list[str] = []
    monkeypatch.setattr(
        clip_reader, "read_sound", lambda path, config: reads.append(path.name) or read_sound(path, config)
    )
    path = write_sound(tmp_path / "a.wav", "pcm_s16le", voice)
    silent = write_sound(tmp_path / "b.wav", "pcm_s16le", 0 * voice)
    reader = ClipReader(MEDIA)
    for at in (0.0, 0.5, 1.0):
        reader.sound(path, Span(at, at + 0.5))
    for at in (0.0, 0.5):
        with pytest.raises(SilentAudio):
            reader.sound(silent, Span(at, at + 0.5))
    assert reads == ["a.wav", "b.wav"]
    write_sound(path, "pcm_s16le", voice[: 2 * RATE])  # another content
    reader.sound(path, Span(0, 0.5))
    assert reads == ["a.wav", "b.wav", "a.wav"]


@pytest.mark.parametrize("size", [(64, 48), (62, 48)])
@pytest.mark.parametrize("times", [(0.0, 0.0), (0.4, 1.2)])
def test_a_half_is_cut_from_the_whole_pictures(tmp_path, make_clip, times, size):
    photograph = np.random.default_rng(7).integers(0, 255, (size[1], size[0], 3), np.uint8)
    path, reader = make_clip(tmp_path / "a.mp4", pictures=40, photograph=photograph), ClipReader(MEDIA)
    (whole,) = reader.samplings(path, Span(*times), [4])
    middle = size[0] // 2
    for half, expected in ((Half.LEFT, whole.frames[:, :, :middle]), (Half.RIGHT, whole.frames[:, :, middle:])):
        span = Span(*times, half)
        (part,) = reader.samplings(path, span, [4])
        np.testing.assert_array_equal(part.frames, expected)
        np.testing.assert_array_equal(part.times, whole.times)
        assert part.frames.flags.c_contiguous
        np.testing.assert_array_equal(reader.frames_at(path, span, whole.times), expected)


def test_an_odd_width_has_halves_of_equal_width():
    pictures = np.arange(5 * 3, dtype=np.uint8).reshape(1, 1, 5, 3)
    np.testing.assert_array_equal(crop_half(pictures, Half.LEFT), pictures[:, :, :2])
    np.testing.assert_array_equal(crop_half(pictures, Half.RIGHT), pictures[:, :, 3:])
