"""What FFmpeg answers says something of the file, or of the machine."""

from __future__ import annotations

import errno
import os

import av
import pytest

from ecmf_pipeline.core.errors import FileUnreachable, UnreadableMedia
from ecmf_pipeline.media.containers import open_container


def refused(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object, **__: object) -> None:
        av.error.err_check(-number, "clip.mp4")

    monkeypatch.setattr(av, "open", fail)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.EAGAIN, errno.EACCES])
def test_limits_of_the_machine_are_not_the_files_fault(monkeypatch, number):
    refused(monkeypatch, number)
    with pytest.raises(FileUnreachable) as failure, open_container("clip.mp4"):
        pass
    assert failure.value.is_transient
    assert os.strerror(number) in str(failure.value)


def test_memory_that_runs_out_is_no_property_of_the_file(monkeypatch):
    refused(monkeypatch, errno.ENOMEM)
    with pytest.raises(MemoryError), open_container("clip.mp4"):
        pass


def test_what_ffmpeg_cannot_make_sense_of_is_unreadable(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"no film")
    with pytest.raises(UnreadableMedia), open_container(path):
        pass
