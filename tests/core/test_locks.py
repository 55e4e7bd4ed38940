"""One writer at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import StoreBusy
from ecmf_pipeline.core.files import exclusive

HOLD = """
import sys
from pathlib import Path
from ecmf_pipeline.core.files import exclusive
with exclusive(Path(sys.argv[1]), "it"):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "features" / ".face.zarr.lock"


def test_the_second_one_is_told_who_holds_it(lock):
    with exclusive(lock, "the store"):
        with pytest.raises(StoreBusy) as caught, exclusive(lock, "the store"):
            pass
        assert caught.value.message.startswith(
            f"the store is being written to by another run (process {os.getpid()} on "
        )
        assert os.uname().nodename in caught.value.message
    with exclusive(lock, "the store"):
        pass


def test_it_is_free_again_after_an_error(lock):
    with pytest.raises(ZeroDivisionError), exclusive(lock, "it"):
        raise ZeroDivisionError
    with exclusive(lock, "it"):
        pass


def test_it_ends_with_the_process_that_holds_it_however_it_ends(lock, repository):
    command = [sys.executable, "-c", HOLD, str(lock)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=repository, **pipes) as holder:
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(StoreBusy, match=f"process {holder.pid} on"), exclusive(lock, "it"):
            pass
        holder.kill()
    with exclusive(lock, "it"):
        assert f"process {os.getpid()} on" in lock.read_text()


def test_it_is_not_handed_on_to_programs_that_are_started(lock):
    with exclusive(lock, "it"):
        sleeper = subprocess.Popen(["sleep", "60"])
    try:
        with exclusive(lock, "it"):
            pass
    finally:
        sleeper.kill()
        sleeper.wait()


def test_without_locks_in_the_file_system_one_is_warned_and_goes_on(lock, monkeypatch, capsys):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with exclusive(lock, "the store"):
        pass
    assert "no other run writes to the store" in capsys.readouterr().out


def test_other_errors_are_raised(lock, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"), exclusive(lock, "it"):
        pass
