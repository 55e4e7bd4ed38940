"""Files that change between `index` and the stage that reads them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ecmf_pipeline.core import files
from ecmf_pipeline.core.errors import ChangedSinceIndex, FileUnreachable, UnreadableMedia
from ecmf_pipeline.core.files import FileState, indexed_content, sha256_file, wait_until_settled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old bytes")
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed, in order."""
    names: list[str] = []

    def record(path: Path) -> str:
        names.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(files, "sha256_file", record)
    return names


def indexed_state(path: Path) -> tuple[str, FileState]:
    state = FileState.of(path)
    assert wait_until_settled(state)
    return sha256_file(path), state


def replace_by(path: Path, content: bytes, *, in_place: bool) -> None:
    """Change the content, but neither size nor modification time."""
    times = path.stat()
    other = path if in_place else path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def test_an_unchanged_file_is_not_hashed(path, hashed):
    digest, state = indexed_state(path)
    with indexed_content(path, digest, state, 9):
        assert path.read_bytes() == b"old bytes"
    assert hashed == []


@pytest.mark.parametrize("in_place", [True, False])
def test_a_change_with_the_same_size_and_mtime_is_noticed(path, in_place):
    digest, state = indexed_state(path)
    replace_by(path, b"new bytes", in_place=in_place)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.size, state.mtime_ns)
    with pytest.raises(ChangedSinceIndex), indexed_content(path, digest, state, 9):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("knows_state", [True, False])
def test_a_change_while_the_file_is_read_is_noticed(path, in_place, knows_state):
    """Its features would be stored under the digest of the old content."""
    digest, state = indexed_state(path)
    with pytest.raises(ChangedSinceIndex), indexed_content(path, digest, state if knows_state else None, 9):
        replace_by(path, b"new bytes", in_place=in_place)


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"half"), Path.unlink])
def test_a_change_replaces_the_error_that_it_may_have_caused(path, change):
    def read() -> None:
        change(path)
        raise UnreadableMedia("truncated")

    digest, state = indexed_state(path)
    with pytest.raises(ChangedSinceIndex), indexed_content(path, digest, state):
        read()


def test_errors_of_an_unchanged_file_are_kept(path):
    digest, state = indexed_state(path)
    with pytest.raises(UnreadableMedia), indexed_content(path, digest, state):
        raise UnreadableMedia("no film")


@pytest.mark.parametrize("touch", ["mtime", "links", "inode", "unknown"])
def test_a_file_in_another_state_is_hashed_once_and_accepted_if_its_content_is_the_same(path, hashed, touch):
    digest, state = indexed_state(path)
    match touch:
        case "mtime":
            os.utime(path, ns=(0, 0))
        case "links":
            os.link(path, path.with_name("link"))
        case "inode":
            replace_by(path, b"old bytes", in_place=False)
    with indexed_content(path, digest, None if touch == "unknown" else state, 9):
        pass
    assert hashed == ["a.mp4"]


def test_a_file_of_another_size_is_not_hashed(path, hashed):
    digest, state = indexed_state(path)
    path.write_bytes(b"longer bytes")
    with pytest.raises(ChangedSinceIndex), indexed_content(path, digest, state, 9):
        pass
    assert hashed == []


def test_a_missing_file_is_unreachable(path):
    with pytest.raises(FileUnreachable), indexed_content(path.with_name("gone"), "0" * 64, None):
        pass


def test_a_change_within_one_tick_of_the_clock_is_noticed_if_the_clock_of_the_file_server_is_ahead(path, monkeypatch):
    """The file cannot settle, so it is hashed again."""
    state = FileState.of(path)
    digest = sha256_file(path)
    now = time.time_ns()
    monkeypatch.setattr(files.time, "time_ns", lambda: now - 10**10)
    monkeypatch.setattr(FileState, "of", classmethod(lambda *_: state))  # no time of the file changes
    assert not wait_until_settled(state)
    with indexed_content(path, digest, None):
        pass
    with pytest.raises(ChangedSinceIndex), indexed_content(path, digest, None):
        path.write_bytes(b"new bytes")


def test_a_fresh_file_settles_within_a_tick(path):
    begun = time.monotonic()
    assert wait_until_settled(FileState.of(path))
    assert time.monotonic() - begun < 5
    assert not files.is_too_recent(FileState.of(path).ctime_ns, time.time_ns())
