"""Tests of the versions that are kept of files that people write."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.sharing.versions import keep_version

FIRST, BOTH = "clip_id,label\na,happy\n", "clip_id,label\na,happy\nb,sad\n"


@pytest.fixture
def verdicts(tmp_path, monkeypatch) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "labels").mkdir()
    monkeypatch.chdir(tmp_path)
    return paths.VERDICTS


def kept() -> set[str]:
    return {path.read_text() for path in Path(".ecmf/versions/labels/verdicts.csv").glob("*.csv")}


def test_each_version_is_kept_and_a_longer_one_is_no_loss(verdicts, capsys):
    for text in (FIRST, BOTH, BOTH.replace("sad", "angry")):
        verdicts.write_text(text)
        keep_version(verdicts)
    assert kept() == {FIRST, BOTH, BOTH.replace("sad", "angry")}
    assert capsys.readouterr().err == ""


def test_lost_clips_are_reported_once_with_the_version_that_has_them(verdicts, capsys):
    verdicts.write_text(BOTH)
    keep_version(verdicts)
    verdicts.write_text(FIRST)
    keep_version(verdicts)
    command = capsys.readouterr().err.splitlines()[-1].split()
    assert Path(command[1]).read_text() == BOTH
    keep_version(verdicts)
    assert capsys.readouterr().err == ""


def test_an_earlier_version_that_is_restored_is_the_latest(verdicts, capsys):
    for text in (BOTH, FIRST, BOTH, FIRST):
        verdicts.write_text(text)
        keep_version(verdicts)
    assert capsys.readouterr().err.count("warning") == 2


def test_a_removed_file_is_reported_with_the_command_that_restores_it(verdicts, capsys):
    keep_version(verdicts)
    assert capsys.readouterr().err == ""
    verdicts.write_text(BOTH)
    keep_version(verdicts)
    verdicts.unlink()
    keep_version(verdicts)
    _, source, target = capsys.readouterr().err.splitlines()[-1].split()
    assert (Path(source).read_text(), target) == (BOTH, str(verdicts))


def test_workspaces_of_experiments_keep_no_versions(verdicts, monkeypatch):
    workspace = Path(".dvc/tmp/exps/tmp1")
    (workspace / ".dvc").mkdir(parents=True)
    (workspace / "labels").mkdir()
    monkeypatch.chdir(workspace)
    verdicts.write_text(BOTH)
    keep_version(verdicts)
    assert list(Path("../../../..").rglob(".ecmf")) == []


def test_verdicts_are_outside_of_the_data_folder():
    assert paths.DATA not in paths.VERDICTS.parents
