"""Errors of FFmpeg that concern the machine or the file."""

from __future__ import annotations

import errno
import os

import av
import pytest

from ecmf_pipeline.core.errors import FileUnreachable, UnreadableMedia
from ecmf_pipeline.media.containers import open_container


def fail_to_open(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object, **__: object) -> None:
        av.error.err_check(-number, "clip.mp4")

    monkeypatch.setattr(av, "open", fail)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.EAGAIN, errno.EACCES])
def test_limits_of_the_machine_raise_a_transient_error(monkeypatch, number):
    fail_to_open(monkeypatch, number)
    with pytest.raises(FileUnreachable) as caught, open_container("clip.mp4"):
        pass
    assert caught.value.is_transient
    assert os.strerror(number) in caught.value.message


def test_out_of_memory_raises_memory_error(monkeypatch):
    fail_to_open(monkeypatch, errno.ENOMEM)
    with pytest.raises(MemoryError), open_container("clip.mp4"):
        pass


def test_file_that_ffmpeg_cannot_read_raises_unreadable_media(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"not a video")
    with pytest.raises(UnreadableMedia), open_container(path):
        pass


@pytest.mark.parametrize("number", [errno.EIO, errno.EPERM, errno.EAGAIN])
def test_errors_of_the_machine_at_a_readable_file_concern_its_content(monkeypatch, tmp_path, number):
    """Demuxers return EIO for damaged Matroska files, decoders EPERM for damaged AAC; the clip must not be retried."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"damaged")
    fail_to_open(monkeypatch, number)
    with pytest.raises(UnreadableMedia), open_container(path):
        pass


def test_limit_of_open_files_is_transient_for_a_readable_file(monkeypatch, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"damaged")
    fail_to_open(monkeypatch, errno.EMFILE)
    with pytest.raises(FileUnreachable), open_container(path):
        pass
