"""Finished batches between work and store."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from ecmf_pipeline.core import files
from ecmf_pipeline.runner import spool
from ecmf_pipeline.runner.spool import Spool


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "0123456789ab"


def test_what_is_kept_is_read_until_it_is_dropped(folder):
    mine = Spool.start(folder)
    assert mine.read("1") is None
    mine.keep("1", b"one")
    mine.keep("2", b"two")
    assert pickle.loads(pickle.dumps(mine)).read("1") == b"one"
    mine.keep("1", b"again")
    assert mine.read("1") == b"again"
    mine.drop(["1", "never kept"])
    assert (mine.read("1"), mine.read("2")) == (None, b"two")


def test_runs_do_not_see_each_other_but_as_leftovers(folder):
    assert Spool.start(folder).leftovers() == []
    first, second = Spool(folder, "aaa"), Spool(folder, "aaab")
    for task in ("000010", "000002"):
        first.keep(task, task.encode())
    second.keep("000001", b"")
    assert second.read("000002") is None
    assert [path.read_bytes() for path in second.leftovers()] == [b"000002", b"000010"]
    assert [path.name for path in first.leftovers()] == ["aaab.000001.batch"]
    assert Spool.start(folder).run != Spool.start(folder).run


def test_a_batch_that_is_being_written_is_no_leftover(folder, monkeypatch):
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    mine = Spool.start(folder)
    monkeypatch.setattr(files.os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        mine.keep("1", b"one")
    assert mine.read("1") is None
    assert Spool.start(folder).leftovers() == []


def test_a_kept_batch_is_on_the_disk_and_so_is_its_name(folder, monkeypatch):
    flushed = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(spool.os, "fsync", note)
    Spool.start(folder).keep("1", b"one")
    assert [path.parent for path in flushed[:1]] == [folder]
    assert flushed[-1] == folder
