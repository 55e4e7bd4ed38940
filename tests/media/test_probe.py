from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from ecmf_pipeline.core.errors import FileUnreachable, UnreadableMedia
from ecmf_pipeline.media.containers import Probe, probe_media

Write = Callable[..., Path]


def test_file_with_audio_only(tmp_path: Path, write_media: Write) -> None:
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


def test_duration_is_read_from_packets_if_the_container_has_none(tmp_path: Path) -> None:
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


def test_title_that_is_not_utf8_is_accepted(tmp_path: Path) -> None:
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
def test_other_files_raise_unreadable_media(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UnreadableMedia):
        probe_media(tmp_path / "a.mp4")


def test_text_file_with_timed_text_raises_unreadable_media(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nHello\n\n2\n00:00:03,000 --> 00:00:04,000\nYes\n"
    )
    with pytest.raises(UnreadableMedia):
        probe_media(tmp_path / "a.mp4")


@pytest.mark.parametrize("codec", [b"V_MPEG4", b"A_AAC"])
def test_a_stream_without_a_decoder_does_not_hide_the_other(tmp_path: Path, write_media: Write, codec: bytes) -> None:
    content = write_media(tmp_path / "a.mkv", "both").read_bytes()
    assert codec in content
    (tmp_path / "a.mkv").write_bytes(content.replace(codec, codec[:2].ljust(len(codec), b"Z")))
    probe = probe_media(tmp_path / "a.mkv")
    assert (probe.has_video, probe.has_audio) == (True, True)
    (tmp_path / "a.mkv").write_bytes(content.replace(b"V_MPEG4", b"V_ZZZZZ").replace(b"A_AAC", b"A_ZZZ"))
    with pytest.raises(UnreadableMedia):
        probe_media(tmp_path / "a.mkv")


def test_missing_file_raises_file_unreachable(tmp_path: Path) -> None:
    with pytest.raises(FileUnreachable):
        probe_media(tmp_path / "a.mp4")


def test_truncated_file_needs_its_header(shared_data: Path, tmp_path: Path) -> None:
    complete = shared_data / "clips" / "video" / "clip_011.mp4"
    assert probe_media(complete) == Probe(3.303, has_video=True, has_audio=True, readable=3.303)
    truncated = tmp_path / "truncated.mp4"
    truncated.write_bytes(complete.read_bytes()[:3000])
    with pytest.raises(UnreadableMedia):
        probe_media(truncated)


class _Unseekable:
    """A file that can only be written forward, like a stream."""

    def __init__(self, file: object) -> None:
        self.write = file.write  # type: ignore[attr-defined]
