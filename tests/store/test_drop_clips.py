"""Tests that the rows of some clips are dropped everywhere, also from kept parts, and those of others nowhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.llm import answers
from ecmf_pipeline.llm.answers import AnswerWriter, ScoreCache, TextScores
from ecmf_pipeline.store import FeatureStore, StoreWriter
from ecmf_pipeline.store import compact as module
from ecmf_pipeline.store.compact import drop_clips
from ecmf_pipeline.store.format import part_names
from ecmf_pipeline.store.kept import KeptParts
from ecmf_pipeline.store.verify import verify_store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    return tmp_path / "data" / "features" / "face.zarr"


def drop(store: FeatureStore, *clip_ids: str) -> int:
    with StoreWriter(store.root, store.fingerprint) as writer:
        return drop_clips(writer, set(clip_ids))


def files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.fixture
def store(root, row, write) -> FeatureStore:
    return write(root, [row("gone", length=2), row("stays")], [row("alone")], [row("gone", digest="new")])


def check(store: FeatureStore, row, tmp_path: Path) -> None:
    assert verify_store(store.root).findings == []
    reopened = FeatureStore(store.root, store.fingerprint)
    assert set(reopened.newest()) == {"stays", "alone"}
    assert (reopened.row("stays", "d").values == row("stays").values.astype(np.float16)).all()
    assert files_with(tmp_path, '"gone"') == []
    assert KeptParts(store.folder).names() == set(part_names(store.folder))


def test_rows_are_dropped_from_parts_and_kept_parts(store, row, tmp_path):
    untouched = part_names(store.folder)[1]
    assert len(files_with(tmp_path, '"gone"')) == 4
    assert drop(store, "gone", "unknown") == 2
    assert untouched in part_names(store.folder)
    check(store, row, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert drop(store, "gone") == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_that_only_the_kept_parts_have_is_restored_without_the_rows(store, row, tmp_path):
    shutil.rmtree(store.root)
    assert drop(store, "gone") == 2
    check(store, row, tmp_path)


@pytest.mark.parametrize("removals", [0, 1])
def test_a_killed_removal_is_finished_by_the_next(store, row, tmp_path, monkeypatch, removals):
    real, calls = module._remove, iter(range(9))

    def killed(*paths: Path) -> None:
        if next(calls) == removals:
            raise KeyboardInterrupt
        real(*paths)

    monkeypatch.setattr(module, "_remove", killed)
    with pytest.raises(KeyboardInterrupt):
        drop(store, "gone")
    monkeypatch.setattr(module, "_remove", real)
    assert set(FeatureStore(store.root, store.fingerprint).newest()) >= {"stays", "alone"}
    drop(store, "gone")
    check(store, row, tmp_path)


def test_answers_are_dropped_also_after_a_kill(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    folder, spool = tmp_path / "data" / "votes" / "cache", tmp_path / "data" / ".votes.spool"
    gone = {sha256_text(text) for text in ("gone", "also gone")}

    def writer() -> AnswerWriter[TextScores]:
        return AnswerWriter(ScoreCache(folder, "abc"), spool)

    with writer() as first:
        for batch in (["gone", "stays"], ["also gone"], ["other"]):
            first.append(TextScores.of(sha256_text(text), np.ones(2)) for text in batch)
    real = answers.KeptParts.drop

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(answers.KeptParts, "drop", killed)
    with pytest.raises(KeyboardInterrupt), writer() as second:
        second.drop(gone.__contains__)
    monkeypatch.setattr(answers.KeptParts, "drop", real)
    with writer() as third:
        assert third.drop(gone.__contains__) == 2
    assert not any(files_with(tmp_path, key) for key in gone)
    cache = ScoreCache(folder, "abc")
    assert {row.key for row in cache.rows()} == {sha256_text("stays"), sha256_text("other")}
    assert KeptParts(folder / "abc").names() == {path.name for path in (folder / "abc").iterdir()}
    with writer() as fourth:
        assert fourth.drop(gone.__contains__) == 0
