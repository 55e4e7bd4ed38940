"""Sampled pictures and audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecmf_pipeline.core.errors import NoAudioStream, NoVideoStream, SilentAudio, TooManyPictures, UnreadableMedia
from ecmf_pipeline.media.audio import read_audio
from ecmf_pipeline.media.config import SAMPLE_RATE, MediaConfig
from ecmf_pipeline.media.sampling import read_frames, read_samplings, sample_indices
from ecmf_pipeline.media.timeline import Timeline

READERS = ["auto", "decord", "pyav"]


@pytest.mark.parametrize("reader", READERS)
def test_frames_are_uniform_in_time_at_a_constant_rate(make_clip, tmp_path, reader):
    clip = make_clip(tmp_path / "a.mp4", pictures=50)
    frames, times = read_frames(clip, MediaConfig(frames=5, reader=reader))
    assert frames.shape == (5, 48, 64, 3)
    assert times == pytest.approx([0.2, 0.6, 1.0, 1.4, 1.8], abs=0.021)
    assert np.abs(frames[:, 0, 0, 0] - 5 * np.round(times / 0.04)).max() <= 3


@pytest.mark.parametrize("reader", READERS)
def test_frames_are_uniform_in_time_at_a_variable_rate(make_clip, tmp_path, reader):
    # One second of 10 long pictures, then one second of 40 short ones: half of the samples belong to each.
    clip = make_clip(tmp_path / "a.mp4", durations_ms=[100] * 10 + [25] * 40)
    frames, times = read_frames(clip, MediaConfig(frames=8, reader=reader))
    assert (times < 1.0).sum() == 4
    # The picture at 0.125 s is the second (0.1 - 0.2 s), not the seventh of fifty.
    assert times[0] == pytest.approx(0.1, abs=1e-3)
    assert frames[0, 0, 0, 0] == pytest.approx(5, abs=2)


def test_both_readers_return_the_same_pixels(make_clip, tmp_path, shared_data):
    made = make_clip(tmp_path / "a.mp4", durations_ms=[100] * 10 + [25] * 40)
    for clip in [made, shared_data / "clips/video/clip_005.mp4", shared_data / "clips/video/clip_026.mp4"]:
        decord, times = read_frames(clip, MediaConfig(reader="decord"))
        pyav, same_times = read_frames(clip, MediaConfig(reader="pyav"))
        np.testing.assert_array_equal(decord, pyav)
        np.testing.assert_allclose(times, same_times, atol=1e-3)


def test_readers_agree_closely_on_scaled_pictures(shared_data):
    clip = shared_data / "clips/video/clip_002.mp4"
    decord, _ = read_frames(clip, MediaConfig(reader="decord", frames=4, max_side=640))
    pyav, _ = read_frames(clip, MediaConfig(reader="pyav", frames=4, max_side=640))
    assert decord.shape == pyav.shape == (4, 360, 640, 3)
    assert np.abs(decord.astype(float) - pyav).mean() < 1.0


def write_video(path: Path, codec: str = "libx264", pix_fmt: str = "yuv420p", **options: str) -> Path:
    """Write two seconds of a moving photograph, with pictures that no other picture references."""
    import av
    from skimage import data

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 320, 240, pix_fmt
        for index in range(50):
            picture = np.ascontiguousarray(np.roll(data.astronaut(), 3 * index, axis=1)[:240, :320])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def decoded_times(monkeypatch) -> list[float]:
    """Times of all pictures that PyAV decodes."""
    from ecmf_pipeline.media import pictures

    times: list[float] = []
    original_add_frame = pictures.PictureBuffer.add_frame

    def add_frame(buffer, decoded, shown, *, is_sampled):
        times.append(decoded.time)
        original_add_frame(buffer, decoded, shown, is_sampled=is_sampled)

    monkeypatch.setattr(pictures.PictureBuffer, "add_frame", add_frame)
    return times


def test_unreferenced_pictures_are_skipped_without_changing_the_others(tmp_path, decoded_times):
    video = write_video(tmp_path / "a.mp4", bf="3", g="25")
    sampled, times = read_frames(video, MediaConfig(frames=7, reader="auto"))
    assert 7 < len(decoded_times) < 40
    decoded_times.clear()
    all_frames, all_times = read_frames(video, MediaConfig(frames=50, reader="auto"))
    assert len(decoded_times) == len(all_frames) == 50
    np.testing.assert_array_equal(sampled, all_frames[np.isin(all_times, times)])
    decord, decord_times = read_frames(video, MediaConfig(frames=7, reader="decord"))
    np.testing.assert_array_equal(sampled, decord)
    np.testing.assert_array_equal(times, decord_times)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "options"),
    [
        ("libx264", "yuvj420p", {}),
        ("libx264", "yuv420p", {"colorspace": "bt709", "color_range": "pc"}),
        ("libx264", "yuv420p", {"x264-params": "interlaced=1"}),
        ("libx264", "yuv420p10le", {}),
        ("mpeg4", "yuv420p", {"bf": "2"}),
    ],
)
def test_auto_returns_the_pictures_of_decord(tmp_path, codec, pix_fmt, options):
    video = write_video(tmp_path / "a.mp4", codec, pix_fmt, **options)
    auto, times = read_frames(video, MediaConfig(frames=9, reader="auto"))
    decord, decord_times = read_frames(video, MediaConfig(frames=9, reader="decord"))
    np.testing.assert_array_equal(auto, decord)
    np.testing.assert_array_equal(times, decord_times)


def test_auto_returns_the_pictures_of_decord_for_real_clips(shared_data):
    """Some of the clips have a hidden picture, some are scaled down."""
    for clip in sorted((shared_data / "clips/video").glob("*.mp4"))[::2]:
        auto, times = read_frames(clip, MediaConfig(frames=6, reader="auto"))
        decord, decord_times = read_frames(clip, MediaConfig(frames=6, reader="decord"))
        np.testing.assert_array_equal(auto, decord)
        np.testing.assert_array_equal(times, decord_times)


@pytest.mark.parametrize("reader", READERS)
def test_joint_samplings_equal_separate_samplings(make_clip, tmp_path, reader):
    clip = make_clip(tmp_path / "a.mp4", durations_ms=[100] * 10 + [25] * 40)
    config = MediaConfig(reader=reader)
    counts = [8, "all", 3, 100]
    together = read_samplings(clip, config, counts)
    assert [len(sampling.frames) for sampling in together] == [8, 50, 3, 50]
    for count, sampling in zip(counts, together, strict=True):
        (expected,) = read_samplings(clip, config, [count])
        np.testing.assert_array_equal(sampling.frames, expected.frames)
        np.testing.assert_array_equal(sampling.times, expected.times)


def test_too_many_pictures_are_rejected_before_decoding(make_clip, tmp_path, monkeypatch):
    clip = make_clip(tmp_path / "a.mp4", pictures=50, size=(64, 48))
    monkeypatch.setattr("ecmf_pipeline.media.pictures._MAX_DECODED_BYTES", 49 * 64 * 48 * 3)
    assert len(read_samplings(clip, MediaConfig(), [49])[0].frames) == 49
    with pytest.raises(TooManyPictures, match=r"50 frames of 64 x 48.*media\.max_side"):
        read_samplings(clip, MediaConfig(), [4, "all"])


def test_video_with_too_many_packets_is_read_twice(tmp_path, monkeypatch):
    from ecmf_pipeline.media import pyav_reader

    video = write_video(tmp_path / "a.mp4", bf="3")
    expected, times = read_frames(video, MediaConfig(frames=7, reader="pyav"))
    monkeypatch.setattr(pyav_reader, "_MAX_KEPT_BYTES", 1000)
    actual, same_times = read_frames(video, MediaConfig(frames=7, reader="pyav"))
    np.testing.assert_array_equal(expected, actual)
    np.testing.assert_array_equal(times, same_times)


def test_clip_with_fewer_pictures_than_samples_returns_each_once(make_clip, tmp_path):
    frames, times = read_frames(make_clip(tmp_path / "a.mp4", pictures=3), MediaConfig(frames=16))
    assert len(frames) == len(times) == 3


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", [b"", b"\x00" * 5000, b"not a video"])
def test_other_files_raise_unreadable_media(tmp_path, reader, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(UnreadableMedia):
        read_frames(path, MediaConfig(reader=reader))
    with pytest.raises(UnreadableMedia):
        read_audio(path, MediaConfig())


@pytest.mark.parametrize("reader", READERS)
def test_file_cut_in_half_raises_unreadable_media(make_clip, tmp_path, reader):
    original = make_clip(tmp_path / "a.mp4", pictures=200, audio_seconds=8)
    # moov at the front, as in files for streaming: the header is complete, the pictures are not.
    import av

    front = tmp_path / "front.mp4"
    with av.open(str(original)) as source, av.open(str(front), "w", options={"movflags": "faststart"}) as target:
        streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                target.mux(packet)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(front.read_bytes()[: front.stat().st_size // 2])
    with pytest.raises(UnreadableMedia):
        read_frames(cut, MediaConfig(reader=reader))
    with pytest.raises(UnreadableMedia):
        read_audio(cut, MediaConfig())


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_hidden_pictures_before_the_start_are_not_sampled(shared_data, tmp_path, reader):
    """Like `ffmpeg -ss 1.5 -c copy`: packets from the last key picture on are kept, and an edit list hides them."""
    import av

    original, cut = shared_data / "clips/video/clip_003.mp4", tmp_path / "cut.mp4"
    with av.open(str(original)) as source, av.open(str(cut), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        shift = int(1.5 / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                target.mux(packet)
    frames, times = read_frames(cut, MediaConfig(frames=4, reader=reader))
    assert (times >= 0).all()
    original_frames, original_times = read_frames(original, MediaConfig(frames=1000, reader="pyav"))
    for frame, time in zip(frames, times, strict=True):
        nearest = np.abs(original_times - (time + 1.5)).argmin()
        differences = np.abs(original_frames.astype(np.int16) - frame).mean(axis=(1, 2, 3))
        assert abs(int(differences.argmin()) - nearest) <= 1


@pytest.mark.parametrize("reader", READERS)
def test_truncated_real_clip_raises_unreadable_media(shared_data, reader):
    with pytest.raises(UnreadableMedia, match=r"4\.44 of 6\.28"):
        read_frames(shared_data / "clips/video/clip_022.mp4", MediaConfig(reader=reader))


@pytest.mark.parametrize("reader", READERS)
def test_clip_with_audio_only_raises_no_video_stream(make_clip, tmp_path, reader):
    clip = make_clip(tmp_path / "a.mp4", video=False, audio_seconds=1)
    with pytest.raises(NoVideoStream):
        read_frames(clip, MediaConfig(reader=reader))


def test_audio_is_mono_16_khz(make_clip, tmp_path):
    samples = read_audio(make_clip(tmp_path / "a.mp4", audio_seconds=2), MediaConfig())
    assert samples.dtype == np.float32
    assert len(samples) / SAMPLE_RATE == pytest.approx(2, abs=0.15)
    spectrum = np.abs(np.fft.rfft(samples[:SAMPLE_RATE]))
    assert spectrum.argmax() == pytest.approx(220, abs=2)


def test_missing_and_silent_audio_raise_different_errors(make_clip, tmp_path):
    with pytest.raises(NoAudioStream):
        read_audio(make_clip(tmp_path / "mute.mp4"), MediaConfig())
    with pytest.raises(SilentAudio):
        read_audio(make_clip(tmp_path / "silent.mp4", audio_seconds=1, amplitude=0.0), MediaConfig())


@given(
    lengths=st.lists(st.floats(0.002, 1.0), min_size=1, max_size=60),
    start=st.floats(0, 5),
    count=st.integers(1, 20),
)
def test_sampled_pictures_are_those_shown_at_the_span_middles(lengths, start, count):
    edges = start + np.concatenate([[0], np.cumsum(lengths)])
    indices = sample_indices(Timeline(edges[:-1], edges[-1]), count)
    assert (np.diff(indices) > 0).all()
    assert 1 <= len(indices) <= min(count, len(lengths))
    moments = start + (np.arange(count) + 0.5) * (edges[-1] - start) / count
    for moment in moments:
        assert any(edges[index] <= moment + 6e-4 and moment <= edges[index + 1] + 6e-4 for index in indices)


def test_path_with_special_characters_opens(make_clip, tmp_path: Path):
    clip = make_clip(tmp_path / "视频 'a\" b.mp4", audio_seconds=0.5)
    assert len(read_frames(clip, MediaConfig(frames=2))[0]) == 2
    assert len(read_audio(clip, MediaConfig())) > 0
