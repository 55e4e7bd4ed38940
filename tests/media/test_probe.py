from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from ecmf_pipeline.core.errors import FileUnreachable, UnreadableMedia
from ecmf_pipeline.media.containers import Probe, probe_media

Write = Callable[..., Path]


def test_sound_alone(tmp_path: Path, write_media: Write) -> None:
    probe = probe_media(write_media(tmp_path / "a.mp4", "sound"))
    assert (probe.has_video, probe.has_audio) == (False, True)
    assert probe.duration == pytest.approx(0.5, abs=0.1)


def test_cover_art_is_not_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux([*cover.encode(), *sound.encode(frame), *sound.encode()])
    probe = probe_media(path)
    assert (probe.has_video, probe.has_audio) == (False, True)


def test_a_length_that_the_container_does_not_tell_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "live.webm"
    with path.open("wb") as file, av.open(_Unseekable(file), "w", format="webm", options={"live": "1"}) as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert container.duration is None
    assert probe_media(path).duration == pytest.approx(2.0, abs=0.11)


def test_a_title_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caf-title"
        stream = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert b"caf-title" in content
    path.write_bytes(content.replace(b"caf-title", b"caf\xe9title"))
    assert probe_media(path).has_video


@pytest.mark.parametrize("content", [b"", b"not a clip" * 500, b"#EXTM3U\n#EXTINF:1,\nother.mp4\n"])
def test_no_media(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UnreadableMedia):
        probe_media(tmp_path / "a.mp4")


def test_neither_pictures_nor_sound(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nHello\n\n2\n00:00:03,000 --> 00:00:04,000\nYes\n"
    )
    with pytest.raises(UnreadableMedia, match="neither pictures nor sound"):
        probe_media(tmp_path / "a.mp4")


def test_a_missing_file_is_no_bad_content(tmp_path: Path) -> None:
    with pytest.raises(FileUnreachable):
        probe_media(tmp_path / "a.mp4")


def test_a_cut_off_file_with_its_header_passes(shared_data: Path, tmp_path: Path) -> None:
    whole = shared_data / "clips" / "video" / "clip_011.mp4"
    assert probe_media(whole) == Probe(3.303, has_video=True, has_audio=True)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(UnreadableMedia):
        probe_media(cut)


class _Unseekable:
    """A file that can only be written forward, as a stream is."""

    def __init__(self, file: object) -> None:
        self.write = file.write  # type: ignore[attr-defined]
