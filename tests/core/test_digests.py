"""Digests that are remembered: a file is read again whenever it may have changed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ecmf_pipeline.core import files
from ecmf_pipeline.core.files import remembered_sha256, sha256_file


class Weights:
    """A file of weights that has not changed for a while, and how often it is read."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0
        self.path = folder / "weights.bin"
        self.cache = folder / "data" / "digests.json"
        self.cache.parent.mkdir()
        self.path.write_bytes(b"abc")
        time.sleep(0.06)

        def counted(path: Path) -> str:
            self.reads += 1
            return sha256_file(path)

        monkeypatch.setattr(files, "sha256_file", counted)

    def digest(self) -> str:
        found = remembered_sha256(self.path, self.cache)
        assert found == sha256_file(self.path)
        return found


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    return Weights(tmp_path, monkeypatch)


def test_an_unchanged_file_is_read_once(weights: Weights) -> None:
    assert weights.digest() == weights.digest()
    assert weights.reads == 1


def _other_content_of_the_same_size_and_time(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"ABC")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _another_file_in_its_place(path: Path) -> None:
    aside = path.with_name("aside")
    aside.write_bytes(b"ABC")
    aside.replace(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"abcd"),
        os.utime,
        _other_content_of_the_same_size_and_time,
        _another_file_in_its_place,
    ],
)
def test_a_file_that_may_have_changed_is_read_again(weights: Weights, change: Callable[[Path], object]) -> None:
    weights.digest()
    change(weights.path)
    time.sleep(0.06)
    weights.digest()
    weights.digest()
    assert weights.reads == 2


def test_a_file_that_has_just_been_written_is_not_remembered(weights: Weights) -> None:
    weights.path.write_bytes(b"xyz")
    weights.digest()
    _other_content_of_the_same_size_and_time(weights.path)
    weights.digest()
    assert weights.reads == 2


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(path: Path) -> str:
        digest = sha256_file(path)
        path.write_bytes(b"longer")
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(files, "sha256_file", slow)
        remembered_sha256(weights.path, weights.cache)
    time.sleep(0.06)
    weights.digest()
    assert weights.reads == 1


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"weights.bin": 3}', b'{"weights.bin": [1, 2, 3, 4, 5]}'])
def test_a_damaged_cache_counts_as_empty(weights: Weights, content: bytes) -> None:
    weights.cache.write_bytes(content)
    weights.digest()
    weights.digest()
    assert weights.reads == 1


def test_files_that_are_gone_are_forgotten(weights: Weights) -> None:
    other = weights.path.with_name("other.bin")
    other.write_bytes(b"x")
    time.sleep(0.06)
    remembered_sha256(other, weights.cache)
    other.unlink()
    weights.digest()
    assert "other.bin" not in weights.cache.read_text()
    assert "weights.bin" in weights.cache.read_text()


def test_outside_a_project_nothing_is_written(weights: Weights) -> None:
    weights.cache.parent.rmdir()
    weights.digest()
    assert not weights.cache.parent.exists()


def test_a_missing_file_is_an_error(weights: Weights) -> None:
    weights.path.unlink()
    with pytest.raises(FileNotFoundError):
        remembered_sha256(weights.path, weights.cache)


def test_a_cache_that_cannot_be_written_costs_only_another_read(weights: Weights) -> None:
    weights.cache.mkdir()
    weights.digest()
    weights.digest()
    assert weights.reads == 2


def test_what_is_no_digest_is_not_believed(weights: Weights) -> None:
    weights.digest()
    [(name, row)] = json.loads(weights.cache.read_bytes()).items()
    weights.cache.write_text(json.dumps({name: [*row[:-1], "nonsense"]}))
    weights.digest()
    assert weights.reads == 2
