"""Tests of `ecmf-pipe cache`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.doctor.run import check_kept
from ecmf_pipeline.llm.answers import AnswerWriter, ScoreCache, TextScores
from ecmf_pipeline.store import FeatureRow, StoreWriter, create_settings_group
from ecmf_pipeline.store.kept import KeptParts

STORE, ANSWERS = Path("data/features/audio.zarr"), Path("data/rewrite/cache")


@pytest.fixture
def fingerprint(tmp_path, monkeypatch) -> str:
    """The fingerprint of a store with two parts, of which one is a year old, and of one part with three answers."""
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    fingerprint = create_settings_group(STORE, {"encoder": "test"}, dim=4, dtype="float16")
    with StoreWriter(STORE, fingerprint) as writer:
        writer.append([FeatureRow("a", "d", np.ones((2, 4))), FeatureRow("b", "d", np.ones((2, 4)))])
        for path in (STORE / fingerprint).rglob("part-*/**/*"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 365 * 24 * 3600))
        writer.append([FeatureRow("c", "d", np.ones((2, 4)))])
    with AnswerWriter(ScoreCache(ANSWERS, fingerprint), Path("data/.rewrite.spool")) as answers:
        answers.append(TextScores.of(sha256_text(text), np.ones(2)) for text in "xyz")
    return fingerprint


def run(*arguments: str) -> None:
    app(["cache", *arguments], standalone_mode=False)


def kept(folder: Path, fingerprint: str) -> int:
    return len(KeptParts(folder / fingerprint).names())


def test_ls_lists_clips_parts_and_bytes_that_exist_nowhere_else(fingerprint, capsys):
    shutil.rmtree(ANSWERS)
    run("ls")
    _, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    size = str(sum(path.stat().st_size for path in Path(".ecmf/kept", ANSWERS).rglob("*.jsonl")))
    assert rows[0][:5] == ["data/features/audio.zarr", fingerprint, "3", "2", "2"]
    assert rows[0][-2:] == ["0", "B"]
    assert rows[1] == ["data/rewrite/cache", fingerprint, "3", "1", "0", size, "B", size, "B"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--unused"], (2, 0)),
        (["--older-than", "30"], (1, 1)),
        (["--unused", "--older-than", "30"], (2, 1)),
        (["--all"], (0, 0)),
        (["--all", "--dry-run"], (2, 1)),
        (["--all", "data/features"], (0, 1)),
        (["--all", "data/features/audio.zarr"], (0, 1)),
        (["--all", "data/features/face.zarr"], (2, 1)),
    ],
)
def test_gc_removes_the_chosen_parts_and_nothing_else(arguments, expected, fingerprint):
    shutil.rmtree(ANSWERS)
    before = sorted(STORE.rglob("*"))
    run("gc", *arguments)
    assert (kept(STORE, fingerprint), kept(ANSWERS, fingerprint)) == expected
    assert sorted(STORE.rglob("*")) == before


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--all", "--unused"], ["--all", "--older-than", "3"]])
@pytest.mark.usefixtures("fingerprint")
def test_gc_needs_exactly_one_choice(arguments):
    with pytest.raises(InputError):
        run("gc", *arguments)


@pytest.mark.usefixtures("fingerprint")
def test_gc_leaves_no_empty_folders():
    run("gc", "--all")
    assert sorted(path.name for path in Path(".ecmf").rglob("*")) == [".dvcignore", ".gitignore", "staging"]


def test_nothing_is_listed_outside_of_a_dvc_project(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("ls")
    assert "nothing is kept" in capsys.readouterr().out
    assert list(check_kept()) == []


@pytest.mark.usefixtures("fingerprint")
def test_doctor_reports_the_kept_bytes():
    (check,) = check_kept()
    assert check.figures["only_here"] == 0
    assert check.figures["bytes"] > 0
    shutil.rmtree(STORE)
    (check,) = check_kept()
    assert 0 < check.figures["only_here"] < check.figures["bytes"]
