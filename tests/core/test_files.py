"""Tests of written files: permissions, and a full disk."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ecmf_pipeline.cli import main as cli
from ecmf_pipeline.core.files import describe_file_system, exclusive_lock, write_atomic

NOBODY = 65534
WRITE_AND_LOCK = """
import os, sys
from pathlib import Path
from ecmf_pipeline.core.files import exclusive_lock, write_atomic
os.umask(0o002)
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))  # after the imports: the interpreter may be in a private folder
with exclusive_lock(Path("features/.lock"), "it"):
    write_atomic(Path("features/table.csv"), sys.argv[1])
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_new_files_folders_and_locks_follow_the_umask(tmp_path: Path, umask: Callable[[int], int], mask: int) -> None:
    umask(mask)
    path = tmp_path / "folder" / "table.csv"
    write_atomic(path, "x")
    with exclusive_lock(tmp_path / "folder" / "lock", "it"):
        pass
    assert mode(path) == mode(path.with_name("lock")) == 0o666 & ~mask
    assert mode(path.parent) == 0o777 & ~mask


def test_a_rewritten_file_keeps_its_mode_unless_it_is_write_protected(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_atomic(path, "x")
    default = mode(path)
    for before, after in ((0o664, 0o664), (0o600, 0o600), (0o444, default)):
        path.chmod(before)
        write_atomic(path, "y")
        assert mode(path) == after
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of other users")
def test_two_users_of_one_group_write_and_lock_the_same_files(repository: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # tmp_path is private
        folder = Path(name)
        os.chown(folder, 0, NOBODY)
        folder.chmod(0o2775)
        for user in (NOBODY, NOBODY - 1, NOBODY):
            done = subprocess.run(
                [sys.executable, "-c", WRITE_AND_LOCK, str(user), str(NOBODY)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(repository)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert (folder / "features" / "table.csv").read_text() == str(user)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_line_with_file_and_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    path = tmp_path / "new" / "table.csv"

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    def write_table(**_: object) -> None:
        write_atomic(path, "x")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(cli, "app", write_table)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: {os.strerror(number)} (file system ")
    assert list(path.parent.iterdir()) == []


def test_full_disk_without_a_file_name_lists_the_file_systems_in_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def library(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli, "app", library)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert describe_file_system(Path.cwd()).split(",")[0] in capsys.readouterr().err
