"""Tests of cached digests: a file is read again whenever it may have changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ecmf_pipeline.core import files
from ecmf_pipeline.core.files import cached_sha256, sha256_file


class Weights:
    """A file of weights that has not changed recently, with a count of how often it is read."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0
        self.path = folder / "weights.bin"
        self.cache = folder / "data" / "digests.json"
        self.cache.parent.mkdir()
        self.path.write_bytes(b"abc")
        time.sleep(0.06)

        def count_and_hash(path: Path) -> str:
            self.reads += 1
            return sha256_file(path)

        monkeypatch.setattr(files, "sha256_file", count_and_hash)

    def digest(self) -> str:
        digest = cached_sha256(self.path, self.cache)
        assert digest == sha256_file(self.path)
        return digest


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    return Weights(tmp_path, monkeypatch)


def test_unchanged_file_is_read_once(weights: Weights) -> None:
    assert weights.digest() == weights.digest()
    assert weights.reads == 1


def _change_content_but_not_size_and_mtime(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"ABC")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace_file(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"ABC")
    other.replace(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"abcd"),
        os.utime,
        _change_content_but_not_size_and_mtime,
        _replace_file,
    ],
)
def test_changed_file_is_read_again(weights: Weights, change: Callable[[Path], object]) -> None:
    weights.digest()
    change(weights.path)
    time.sleep(0.06)
    weights.digest()
    weights.digest()
    assert weights.reads == 2


def test_recently_written_file_is_not_cached(weights: Weights) -> None:
    weights.path.write_bytes(b"xyz")
    weights.digest()
    _change_content_but_not_size_and_mtime(weights.path)
    weights.digest()
    assert weights.reads == 2


def test_file_that_changes_during_reading_is_not_cached(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    def hash_and_change(path: Path) -> str:
        digest = sha256_file(path)
        path.write_bytes(b"longer")
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(files, "sha256_file", hash_and_change)
        cached_sha256(weights.path, weights.cache)
    time.sleep(0.06)
    weights.digest()
    assert weights.reads == 1


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"weights.bin": 3}', b'{"weights.bin": [1, 2, 3, 4, 5]}'])
def test_damaged_cache_counts_as_empty(weights: Weights, content: bytes) -> None:
    weights.cache.write_bytes(content)
    weights.digest()
    weights.digest()
    assert weights.reads == 1


def test_deleted_files_are_removed_from_the_cache(weights: Weights) -> None:
    other = weights.path.with_name("other.bin")
    other.write_bytes(b"x")
    time.sleep(0.06)
    cached_sha256(other, weights.cache)
    other.unlink()
    weights.digest()
    assert "other.bin" not in weights.cache.read_text()
    assert "weights.bin" in weights.cache.read_text()


def test_no_cache_is_written_outside_a_project(weights: Weights) -> None:
    weights.cache.parent.rmdir()
    weights.digest()
    assert not weights.cache.parent.exists()


def test_missing_file_raises(weights: Weights) -> None:
    weights.path.unlink()
    with pytest.raises(FileNotFoundError):
        cached_sha256(weights.path, weights.cache)


def test_unwritable_cache_only_causes_another_read(weights: Weights) -> None:
    weights.cache.mkdir()
    weights.digest()
    weights.digest()
    assert weights.reads == 2


def test_invalid_cached_digest_is_ignored(weights: Weights) -> None:
    weights.digest()
    [(name, row)] = files.read_local_cache(weights.cache).items()
    files.write_local_cache(weights.cache, {name: [*row[:-1], "nonsense"]})
    weights.digest()
    assert weights.reads == 2
