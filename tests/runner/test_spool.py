"""Finished batches between work and store."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from ecmf_pipeline.core import files
from ecmf_pipeline.runner.step import Spool, leftover_batches


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "0123456789ab"


def test_what_is_kept_is_read_until_it_is_dropped(folder):
    mine = Spool(folder, bytes)
    assert mine.read("1") is None
    mine.keep("1", b"one")
    mine.keep("2", b"two")
    assert pickle.loads(pickle.dumps(mine)).read("1") == b"one"
    mine.keep("1", b"again")
    assert mine.read("1") == b"again"
    mine.drop(["1", "never kept"])
    assert (mine.read("1"), mine.read("2")) == (None, b"two")


def test_runs_do_not_read_each_others_batches(folder):
    assert leftover_batches(folder) == []
    first, second = Spool(folder, bytes, "aaa"), Spool(folder, bytes, "aaab")
    for task in ("000010", "000002"):
        first.keep(task, task.encode())
    second.keep("000001", b"")
    assert second.read("000002") is None
    assert [path.name for path in leftover_batches(folder)] == [
        "aaa.000002.batch",
        "aaa.000010.batch",
        "aaab.000001.batch",
    ]
    assert Spool(folder, bytes).run != Spool(folder, bytes).run


def test_a_batch_that_is_being_written_is_no_leftover(folder, monkeypatch):
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    mine = Spool(folder, bytes)
    monkeypatch.setattr(files.os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        mine.keep("1", b"one")
    assert mine.read("1") is None
    assert leftover_batches(folder) == []


def test_a_kept_batch_is_on_the_disk_and_so_is_its_name(folder, monkeypatch):
    flushed = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", note)
    Spool(folder, bytes).keep("1", b"one")
    assert [path.parent for path in flushed[:1]] == [folder]
    assert flushed[-1] == folder
