"""What browsers cannot play is encoded: whole clips, spans of recordings, and sound from another file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Half, content_digest
from ecmf_pipeline.core.errors import UnreadableMedia
from ecmf_pipeline.media.containers import probe_media
from ecmf_pipeline.media.timeline import WHOLE
from ecmf_pipeline.review.media import Playable, encode_clip, find_playable
from ecmf_pipeline.review.transcoding import Target, is_playable, transcode
from tests.media.film_writing import write_display_matrix


@pytest.fixture
def old_film(tmp_path: Path) -> Path:
    """A film of two seconds that no browser plays; its pictures get brighter by 100 grey levels a second."""
    path = tmp_path / "old.mkv"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=25, width=64, height=48, pix_fmt="yuv420p")
        sound = container.add_stream("libmp3lame", rate=44_100)
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 4 * number, np.uint8), format="rgb24")
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        tone = np.tile((0.3 * np.sin(np.arange(2 * 44_100) / 20)).astype(np.float32), (2, 1))
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 44_100, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def greys(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]


def clip_of(path: Path, **fields: object) -> Clip:
    return Clip(ClipId("a"), path.name, "0" * 64, path.stat().st_size, has_video=True, has_audio=True, **fields)


def test_a_film_that_no_browser_plays_is_encoded_once(old_film: Path, tmp_path: Path) -> None:
    clip, cache = clip_of(old_film), tmp_path / "cache" / "media"
    assert not is_playable(old_film)
    assert find_playable(clip, tmp_path, cache) is None
    found = encode_clip(clip, tmp_path, cache)
    assert found == find_playable(clip, tmp_path, cache)
    assert is_playable(found.path)
    probe = probe_media(found.path)
    assert (probe.has_video, probe.has_audio) == (True, True)
    assert probe.duration == pytest.approx(2.0, abs=0.1)
    assert [path.name for path in cache.iterdir()] == [found.path.name]


def test_a_span_of_a_recording_has_its_pictures_and_length(old_film: Path, tmp_path: Path) -> None:
    clip = clip_of(old_film, start=0.8, end=1.4)
    found = encode_clip(clip, tmp_path, tmp_path / "media")
    assert (found.start, found.end) == (0.0, 0.0)
    assert probe_media(found.path).duration == pytest.approx(0.6, abs=0.1)
    shades = greys(found.path)
    assert len(shades) == 15
    assert shades[0] == pytest.approx(greys(old_film)[20], abs=3)
    assert shades[-1] == pytest.approx(greys(old_film)[34], abs=3)
    other = Clip(ClipId("b"), digest=content_digest("0" * 64, 0, 1))
    assert other.digest != clip.digest


def test_a_span_of_a_playable_recording_needs_no_copy(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    clip = clip_of(make_clip(tmp_path / "long.mp4", pictures=50), start=0.5, end=1.5)
    found = find_playable(clip, tmp_path, tmp_path / "media")
    assert found == Playable(tmp_path / "long.mp4", 0.5, 1.5)


def test_a_half_of_a_playable_film_is_encoded(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    photograph = np.zeros((48, 76, 3), np.uint8)
    photograph[:, 38:] = 200
    film = make_clip(tmp_path / "two.mp4", pictures=3, photograph=photograph)
    for half, grey in ((Half.LEFT, 0), (Half.RIGHT, 200)):
        clip = clip_of(film, half=half, file_digest="0" * 64)
        clip = replace(clip, digest=content_digest("0" * 64, 0, 0, half))
        assert find_playable(clip, tmp_path, tmp_path / "media") is None
        found = encode_clip(clip, tmp_path, tmp_path / "media").path
        with av.open(str(found)) as container:
            assert (container.streams.video[0].width, container.streams.video[0].height) == (38, 48)
        assert greys(found) == pytest.approx([grey] * 3, abs=4)


def test_sound_in_another_file_is_added(old_film: Path, tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    silent = make_clip(tmp_path / "silent.mp4", pictures=20)
    assert is_playable(silent)
    clip = clip_of(silent, audio_path=old_film.name, audio_digest="1" * 64, audio_bytes=old_film.stat().st_size)
    found = encode_clip(clip, tmp_path, tmp_path / "media")
    assert probe_media(found.path).has_audio


def test_webm_replaces_mp4_if_its_encoders_are_missing(
    old_film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    webm = Target("webm", "libvpx", "libopus", {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "1M"})
    monkeypatch.setattr("ecmf_pipeline.review.transcoding.target", lambda: webm)
    found = transcode(old_film, tmp_path / "media", "x", WHOLE, None)
    assert found.suffix == ".webm"
    assert is_playable(found)


def test_a_turned_film_is_upright(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    path = make_clip(tmp_path / "phone.mp4", pictures=5)
    write_display_matrix(path, 1, mirrored=False)
    result = transcode(path, tmp_path / "media", "x", WHOLE, None)
    with av.open(str(result)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (48, 64)


def test_a_file_that_holds_nothing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "empty.avi"
    path.write_bytes(b"no film")
    with pytest.raises(UnreadableMedia):
        transcode(path, tmp_path / "media", "x", WHOLE, None)
    assert list((tmp_path / "media").iterdir()) == []
