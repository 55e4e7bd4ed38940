"""Tests of locks, which allow one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import StoreBusy
from ecmf_pipeline.core.files import exclusive_lock

HOLD_LOCK = """
import sys
from pathlib import Path
from ecmf_pipeline.core.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), "it"):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "features" / ".face.zarr.lock"


def test_second_writer_fails_with_the_process_that_holds_the_lock(lock):
    with exclusive_lock(lock, "the store"):
        with pytest.raises(StoreBusy) as caught, exclusive_lock(lock, "the store"):
            pass
        assert "the store" in caught.value.message
        assert f"(process {os.getpid()} on {os.uname().nodename} " in caught.value.message
    with exclusive_lock(lock, "the store"):
        pass


def test_lock_is_released_after_an_error(lock):
    with pytest.raises(ZeroDivisionError), exclusive_lock(lock, "it"):
        raise ZeroDivisionError
    with exclusive_lock(lock, "it"):
        pass


def test_lock_is_released_if_its_process_is_killed(lock, repository):
    command = [sys.executable, "-c", HOLD_LOCK, str(lock)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=repository, **pipes) as holder:
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(StoreBusy, match=f"process {holder.pid} on"), exclusive_lock(lock, "it"):
            pass
        holder.kill()
    with exclusive_lock(lock, "it"):
        assert f"process {os.getpid()} on" in lock.read_text()


def test_child_processes_do_not_inherit_the_lock(lock):
    with exclusive_lock(lock, "it"):
        sleeper = subprocess.Popen(["sleep", "60"])
    try:
        with exclusive_lock(lock, "it"):
            pass
    finally:
        sleeper.kill()
        sleeper.wait()


def test_file_system_without_locks_gives_a_warning(lock, monkeypatch, capsys):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with exclusive_lock(lock, "the store"):
        pass
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {lock}")
    assert "the store" in warning


def test_other_errors_propagate(lock, monkeypatch):
    def io_error(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", io_error)
    with pytest.raises(OSError, match="Input/output"), exclusive_lock(lock, "it"):
        pass
