"""The spool of finished batches between workers and store."""

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


def test_a_stored_batch_is_readable_until_it_is_dropped(folder):
    spool = Spool(folder, bytes)
    assert spool.read("1") is None
    spool.keep("1", b"one")
    spool.keep("2", b"two")
    assert pickle.loads(pickle.dumps(spool)).read("1") == b"one"
    spool.keep("1", b"again")
    assert spool.read("1") == b"again"
    spool.drop(["1", "never kept"])
    assert (spool.read("1"), spool.read("2")) == (None, b"two")


def test_batches_of_different_runs_are_separate(folder):
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


def test_a_partly_written_batch_is_no_leftover(folder, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    spool = Spool(folder, bytes)
    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        spool.keep("1", b"one")
    assert spool.read("1") is None
    assert leftover_batches(folder) == []


def test_a_stored_batch_and_its_directory_entry_are_flushed_to_disk(folder, monkeypatch):
    flushed = []
    fsync = os.fsync

    def record_fsync(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", record_fsync)
    Spool(folder, bytes).keep("1", b"one")
    assert [path.parent for path in flushed[:1]] == [folder]
    assert flushed[-1] == folder
