"""Pictures of films that are not plain H.264 with square pixels, one stream and true times."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import NoVideoStream, TruncatedMedia, UnreadableMedia
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.containers import open_container, probe_media
from ecmf_pipeline.media.pyav_reader import PyAvVideo
from ecmf_pipeline.media.sampling import read_frames
from ecmf_pipeline.media.timeline import Timeline

WIDTH, HEIGHT = 160, 120
TRUNCATABLE = ("mp4", "mov", "mkv", "webm", "flv", "avi")


def grey(level: int) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), level, np.uint8), format="rgb24")


def write(
    path: Path,
    pictures: Iterable[av.VideoFrame],
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    **settings: Any,
) -> Path:
    """Write a film of one stream at 25 pictures a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for picture in pictures:
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def levels(frames: NDArray[np.uint8]) -> list[float]:
    return [float(frame.mean()) for frame in frames]


def moving_bar() -> list[av.VideoFrame]:
    """Return 12 interlaced pictures: a bar moves 8 pixels between the two fields of a picture."""
    woven = []
    for index in range(12):
        picture = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
        for field in (0, 1):
            left = 8 * (2 * index + field) % (WIDTH - 32)
            picture[field::2, left : left + 32] = 220
        woven.append(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p"))
    return woven


def combing(pictures: Iterable[NDArray[np.uint8]]) -> float:
    return float(np.mean([np.abs(np.diff(p[..., 0].astype(int), 2, axis=0)).mean() for p in pictures]))


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(16, 11), Fraction(8, 9)])
def test_pictures_have_square_pixels(tmp_path: Path, aspect: Fraction) -> None:
    path = write(tmp_path / "a.mp4", [grey(100)] * 5, sample_aspect_ratio=aspect)
    frames, _ = read_frames(path, MediaConfig(frames=1))
    assert frames.shape[1:3] == (HEIGHT, round(WIDTH * aspect))
    frames, _ = read_frames(path, MediaConfig(frames=1, max_side=80))
    assert max(frames.shape[1:3]) == 80


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"flags": "+ilme+ildct", "x264-params": "tff=1"}),
        ("mpeg2video", {"flags": "+ilme+ildct", "field_order": "tt", "b": "4M"}),
    ],
)
def test_fields_of_an_interlaced_picture_are_not_mixed(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    """Woven together, the edges of the bar are combs."""
    path = write(tmp_path / "a.mkv", moving_bar(), codec, options)
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    assert all(frame.interlaced_frame for frame in decoded)
    frames, times = read_frames(path, MediaConfig(frames=12))
    assert len(frames) == 12
    np.testing.assert_allclose(np.diff(times), 0.04, atol=1e-3)

    assert combing(frames) < 0.2 * combing(frame.to_ndarray(format="rgb24") for frame in decoded)


def test_an_interlaced_part_of_a_progressive_film_is_deinterlaced(tmp_path: Path) -> None:
    """Broadcasts switch between the two; the parameters of the first pictures are those of a progressive film."""
    interlaced = {"flags": "+ilme+ildct", "x264-params": "tff=1"}
    path = tmp_path / "a.ts"
    with av.open(str(path), "w") as container, av.open(os.devnull, "w", format="mpegts") as elsewhere:
        stream = container.add_stream("libx264", rate=25)
        second = elsewhere.add_stream("libx264", rate=25, options=interlaced)
        for one in (stream, second):
            one.width, one.height, one.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in [grey(100)] * 12:
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        packets = [packet for picture in moving_bar() for packet in second.encode(picture)] + second.encode()
        for packet in packets:
            shift = int(Fraction(12, 25) / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
            container.mux(packet)
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0) if frame.interlaced_frame]
    assert len(decoded) == 12
    frames, _ = read_frames(path, MediaConfig(frames=24))
    assert combing(frames[12:]) < 0.2 * combing(decoded)


def test_the_default_stream_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(3)]
        dispositions = (Disposition(0), Disposition.default, Disposition.default | Disposition.visual_impaired)
        for stream, disposition in zip(streams, dispositions, strict=True):
            stream.width, stream.height, stream.pix_fmt, stream.disposition = WIDTH, HEIGHT, "yuv420p", disposition
        for level, stream in zip((40, 120, 200), streams, strict=True):
            for _ in range(5):
                container.mux(stream.encode(grey(level)))
            container.mux(stream.encode())
    frames, _ = read_frames(path, MediaConfig(frames=2))
    np.testing.assert_allclose(levels(frames), 120, atol=3)


def test_an_empty_stream_does_not_hide_another(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        empty, full = (container.add_stream("libx264", rate=25) for _ in range(2))
        for stream in (empty, full):
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.mux([*full.encode(grey(80)), *full.encode()])
    frames, _ = read_frames(path, MediaConfig())
    np.testing.assert_allclose(levels(frames), 80, atol=3)


def test_stream_of_an_unknown_codec_is_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [grey(50)] * 3)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(UnreadableMedia):
        read_frames(path, MediaConfig())
    with pytest.raises(UnreadableMedia):
        probe_media(path)


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "real.mp4", [grey(50)] * 3)
    path = tmp_path / "a.mp4"
    path.write_text("ffconcat version 1.0\nfile real.mp4\n")
    with av.open(str(path)) as container:
        assert container.format.name == "concat"
    with pytest.raises(UnreadableMedia):
        probe_media(path)


def test_side_data_without_a_name_is_ignored(tmp_path: Path) -> None:
    """Motion JPEG with EXIF, as cameras write it."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6: a quarter turn
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    path = tmp_path / "camera.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for index in range(5):
            for packet in stream.encode(grey(40 * index)):
                jpeg = bytes(packet)
                copy = av.Packet(jpeg[:2] + segment + jpeg[2:])
                copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, stream
                copy.duration, copy.is_keyframe = packet.duration, True
                container.mux(copy)
    with av.open(str(path)) as container, pytest.raises(ValueError, match="not a valid Type"):
        next(container.decode(video=0)).side_data  # noqa: B018
    frames, _ = read_frames(path, MediaConfig(frames=5))
    np.testing.assert_allclose(levels(frames), np.arange(5) * 40, atol=4)
    assert frames.shape[1:3] == (WIDTH, HEIGHT)


def test_appended_recordings_keep_their_order(tmp_path: Path) -> None:
    """The times of the second transport stream start again."""
    parts = [write(tmp_path / f"{n}.ts", [grey(100 * n + 2 * i) for i in range(25)], "mpeg2video") for n in (0, 1)]
    path = tmp_path / "both.ts"
    path.write_bytes(parts[0].read_bytes() + parts[1].read_bytes())
    frames, times = read_frames(path, MediaConfig(frames=10))
    assert (np.diff(times) > 0).all()
    assert levels(frames) == sorted(levels(frames))
    assert times[-1] == pytest.approx(1.9, abs=0.1)


@pytest.mark.parametrize("suffix", TRUNCATABLE)
def test_truncation_is_noticed_in_every_container(tmp_path: Path, suffix: str, write_noise: Any) -> None:
    whole = write_noise(tmp_path / f"a.{suffix}")
    probe = probe_media(whole)
    assert probe.readable == probe.duration == pytest.approx(4, abs=0.15)
    assert len(read_frames(whole, MediaConfig(frames=8))[0]) == 8
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    probe = probe_media(cut)
    assert probe.duration == pytest.approx(4, abs=0.15)
    assert probe.readable == pytest.approx(2, abs=0.4)
    with pytest.raises(TruncatedMedia) as caught:
        read_frames(cut, MediaConfig())
    assert caught.value.limit == pytest.approx(0.5, abs=0.1)
    frames, times = read_frames(cut, MediaConfig(frames=4, least_readable=0.3))
    assert len(frames) == 4
    assert times[-1] < 2.4


@pytest.fixture
def write_noise() -> Any:
    """Write 4 s of pictures and sound; the pictures are noise, so that half of the bytes are half of the time."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(100)]

    def write_film(path: Path) -> Path:
        video, sound, samples_format, rate = {
            "webm": ("libvpx", "libopus", "flt", 48_000),
            "avi": ("mpeg4", "libmp3lame", "fltp", 44_100),
        }.get(path.suffix[1:], ("libx264", "aac", "fltp", 44_100))
        options = {"movflags": "faststart"} if path.suffix in {".mp4", ".mov"} else {}
        with av.open(str(path), "w", options=options) as container:
            film = container.add_stream(video, rate=25, options={"g": "10", "b": "2M", "deadline": "realtime"})
            film.width, film.height, film.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            track = container.add_stream(sound, rate=rate, layout="mono")
            track.codec_context.format = samples_format
            size, done = track.codec_context.frame_size or 1024, 0
            for index, picture in enumerate(pictures):
                container.mux(film.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                while done + size <= (index + 1) * rate // 25:
                    samples = (0.3 * np.sin(np.arange(done, done + size) * 0.1)).astype(np.float32)[None]
                    frame = av.AudioFrame.from_ndarray(samples, format=samples_format, layout="mono")
                    frame.sample_rate, frame.pts = rate, done
                    container.mux(track.encode(frame))
                    done += size
            container.mux(film.encode())
            container.mux(track.encode())
        return path

    return write_film


def test_a_damaged_end_costs_only_the_damaged_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", [grey(2 * index) for index in range(100)], "mpeg4", {"g": "10"})
    content = bytearray(path.read_bytes())
    content[-40:] = bytes(40)
    path.write_bytes(bytes(content))
    frames, _ = read_frames(path, MediaConfig(frames=4))
    np.testing.assert_allclose(levels(frames), [24, 74, 124, 174], atol=5)


def test_stream_without_pictures_has_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*sound.encode(frame), *sound.encode()])
    with pytest.raises(NoVideoStream):
        read_frames(path, MediaConfig())


@pytest.mark.parametrize(
    ("codec", "options", "is_equal"),
    [
        ("libx264", {"bf": "3", "g": "12"}, True),
        ("libx264", {"bf": "0", "g": "250"}, True),
        ("libx264", {"x264-params": "interlaced=1"}, False),
        ("libx265", {"x265-params": "log-level=none"}, False),
        ("mpeg4", {"bf": "2"}, False),
        ("mpeg2video", {}, False),
    ],
)
def test_decord_reads_only_plain_h264(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, options: dict[str, str], is_equal: bool
) -> None:
    path = write(tmp_path / "a.mp4", [grey(5 * index) for index in range(40)], codec, options)
    with open_container(path) as container:
        assert PyAvVideo(path, container, 1280).matches_decord is is_equal
    expected, times = read_frames(path, MediaConfig(frames=7, reader="pyav"))
    if is_equal:  # PyAV must not stand in for decord
        monkeypatch.setattr(PyAvVideo, "sample", lambda *_: pytest.fail("PyAV decoded the pictures"))
    actual, same_times = read_frames(path, MediaConfig(frames=7, reader="decord"))
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(same_times, times)


def test_turned_and_scaled_films_are_not_left_to_decord(tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.set_display_rotation(90)
        container.mux([*stream.encode(grey(90)), *stream.encode()])
    with open_container(path) as container:
        assert not PyAvVideo(path, container, 1280).matches_decord
    path = write(tmp_path / "large.mp4", [grey(90)] * 3)
    with open_container(path) as container:
        assert not PyAvVideo(path, container, 100).matches_decord


def test_timeline_has_a_length() -> None:
    assert len(Timeline(np.array([0.0, 0.5]), 1.0)) == 2
