"""Parts of a film have exactly the pictures of a sequential decode of the whole film."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from ecmf_pipeline.core.errors import ClipError, UnreadableMedia
from ecmf_pipeline.media import recorded_video, seeking
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.containers import open_container
from ecmf_pipeline.media.pyav_reader import PyAvVideo
from ecmf_pipeline.media.recorded_video import RecordedVideo
from ecmf_pipeline.media.sampling import Sampling, pictures_at, sample_pictures
from ecmf_pipeline.media.timeline import Span
from tests.media import films
from tests.media.film_cases import FilmCase

SPANS = (Span(0, 0.6), Span(0.61, 1), Span(1, 1.55), Span(1.5, 2.1), Span(0.2, 0.5), Span(1.8, 2.3))
"""Spans in order, that touch and that overlap, one before the others, and one beyond the end."""
COUNTS = (4, "all")
MAX_SIDE = MediaConfig().max_side

QUICK = (
    FilmCase("libx264", "mp4", gop=25, b_pictures=3),
    FilmCase("libx264", "mkv", b_pictures=2),
    FilmCase("libx264", "ts", b_pictures=2),
    FilmCase("libx264", "mp4", timing="jitter"),
    FilmCase("libx265", "mp4", b_pictures=2),
    FilmCase("libvpx-vp9", "webm"),
    FilmCase("mpeg4", "avi", b_pictures=2),
    FilmCase("mpeg2video", "ts", b_pictures=2),
)


def whole_decode(path: Path, span: Span) -> list[Sampling] | type[ClipError]:
    """Sample a span from a sequential decode of the whole film."""

    def read(choose):
        with open_container(path) as container:
            return PyAvVideo(path, container, MAX_SIDE).sample(choose)

    return result(partial(sample_pictures, read, COUNTS, span))


def result(sample) -> list[Sampling] | type[ClipError]:
    try:
        return sample()
    except ClipError as error:
        return type(error)


def check(case: FilmCase, folder: Path) -> None:
    path = films.make(case, folder)
    if case.variant == "empty":
        with pytest.raises(ClipError):
            RecordedVideo(path, MAX_SIDE)
        return
    video = RecordedVideo(path, MAX_SIDE)
    for span in SPANS:
        expected, got = whole_decode(path, span), result(partial(sample_pictures, video.sample, COUNTS, span))
        if isinstance(expected, type):
            assert got is expected
            continue
        assert isinstance(got, list)
        for one, other in zip(expected, got, strict=True):
            np.testing.assert_array_equal(one.times, other.times)
            np.testing.assert_array_equal(one.frames, other.frames)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.id)
def test_parts_have_the_pictures_of_a_sequential_decode(tmp_path, case):
    check(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", films.drawn_cases(), ids=lambda case: case.id)
def test_parts_of_films_of_all_kinds(tmp_path, case):
    check(case, tmp_path)


@pytest.fixture
def decoded_packets(monkeypatch) -> list[int]:
    """The packets that are decoded, by size."""
    packets: list[int] = []
    decode = recorded_video.decode

    def counted(context, source, *args):
        def noted():
            for packet in source:
                packets.append(packet.size)
                yield packet

        return decode(context, noted(), *args)

    monkeypatch.setattr(recorded_video, "decode", counted)
    return packets


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_many_parts_in_order_cost_about_one_decode(tmp_path, decoded_packets, container):
    path = films.make(FilmCase("libx264", container, b_pictures=2, pictures=250), tmp_path)
    video = RecordedVideo(path, MAX_SIDE)
    for number in range(50):
        sample_pictures(video.sample, [4], Span(number / 5, number / 5 + 0.2))
    assert len(decoded_packets) < 1.5 * 250


def test_a_part_in_the_middle_is_decoded_from_the_entry_point_before_it(tmp_path, decoded_packets):
    path = films.make(FilmCase("libx264", "mp4", b_pictures=2, pictures=250), tmp_path)
    sample_pictures(RecordedVideo(path, MAX_SIDE).sample, [4], Span(8, 8.4))
    assert len(decoded_packets) < 40


def test_open_groups_and_periodic_intra_refresh(tmp_path):
    """Their key pictures are no entry points of H.264: pictures after them may reference pictures before."""
    for name, options in {
        "open": "open-gop=1:keyint=12:bframes=3:scenecut=0",
        "refresh": "intra-refresh=1:keyint=12",
    }.items():
        path = tmp_path / f"{name}.mp4"
        rng = np.random.default_rng(0)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"x264-params": options})
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            noise = rng.integers(0, 255, (120, 160, 3), np.uint8)
            for number in range(60):
                moved = np.roll(noise, 2 * number, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, "rgb24")))
            container.mux(stream.encode(None))
        with open_container(path) as container:
            known = PyAvVideo(path, container, MAX_SIDE).known
        assert sum(packet.is_key for packet in known) > 3
        assert [position for position, packet in enumerate(known) if packet.is_entry] == [0]
        video = RecordedVideo(path, MAX_SIDE)
        for span in (Span(1, 1.4), Span(1.9, 2.2)):
            expected, got = whole_decode(path, span), sample_pictures(video.sample, COUNTS, span)
            for one, other in zip(expected, got, strict=True):
                np.testing.assert_array_equal(one.frames, other.frames)


def test_a_seek_to_a_wrong_place_is_noticed(tmp_path, monkeypatch):
    path = films.make(FilmCase("libx264", "mp4", pictures=120), tmp_path)
    expected = whole_decode(path, Span(3, 3.5))
    monkeypatch.setattr(seeking, "_SEEKS", (-1.0,))  # seeks go beyond the entry point
    got = sample_pictures(RecordedVideo(path, MAX_SIDE).sample, COUNTS, Span(3, 3.5))
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)


def test_pictures_are_found_again_by_their_times(tmp_path):
    path = films.make(FilmCase("libx264", "mkv", b_pictures=2), tmp_path)
    video, span = RecordedVideo(path, MAX_SIDE), Span(1.03, 1.7)
    (sampling,) = sample_pictures(video.sample, [4], span)
    np.testing.assert_array_equal(pictures_at(video.sample, sampling.times, span), sampling.frames)


def test_a_part_after_the_last_picture_has_none(tmp_path):
    path = films.make(FilmCase("libx264", "mp4"), tmp_path)
    with pytest.raises(UnreadableMedia):
        sample_pictures(RecordedVideo(path, MAX_SIDE).sample, [4], Span(5, 6))
