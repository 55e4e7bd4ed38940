"""Tests of the warning about outputs that dvc.lock records but that do not exist in the project."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ecmf_pipeline.sharing.hints import SharedOutputs, find_shared_outputs, warn_of_shared_outputs

FACE, AUDIO = Path("data/features/face.zarr"), Path("data/features/audio.zarr")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "project"
    outs = [
        {"path": str(FACE), "hash": "md5", "md5": "1.dir", "size": 2_500_000_000, "nfiles": 40},
        {"path": "data/quarantine/extract-face.csv", "hash": "md5", "md5": "2", "size": 10},
    ]
    audio = {"path": str(AUDIO), "hash": "md5", "md5": "3.dir", "size": 0, "nfiles": 0}
    stages = {
        "extract@face": {"cmd": "ecmf-pipe extract --modality face", "outs": outs},
        "extract@audio": {"cmd": "ecmf-pipe extract --modality audio", "outs": [audio]},
    }
    (folder / ".dvc").mkdir(parents=True)
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.usefixtures("project")
def test_absent_store_is_reported_with_size_and_command(capsys):
    shared = find_shared_outputs([FACE, AUDIO])  # the recorded audio store is empty
    assert shared == SharedOutputs((str(FACE),), size=2_500_000_000, files=40)
    warn_of_shared_outputs([FACE, AUDIO])
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: ")
    assert str(FACE) in first
    assert "2.5 GB, 40 files" in first
    assert last == "  dvc pull data/features/face.zarr"


def test_empty_folder_counts_as_absent(project):
    (project / FACE).mkdir(parents=True)
    assert find_shared_outputs([FACE, AUDIO]) is not None


def test_existing_and_unrequested_stores_are_not_reported(project, capsys):
    assert find_shared_outputs([AUDIO]) is None
    (project / FACE).mkdir(parents=True)
    (project / FACE / "zarr.json").write_text("{}")
    assert find_shared_outputs([FACE, AUDIO]) is None
    warn_of_shared_outputs([FACE, AUDIO])
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("project")
def test_warning_shows_how_to_add_a_remote(capsys):
    warn_of_shared_outputs([FACE])
    assert "dvc remote add -d NAME URL" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"<<<<<<< HEAD\nschema: '2.0'\n=======\n",
        b"stages: [1, 2]",
        b"stages: {a: 1, b: {outs: 3}, c: {outs: [4, {path: 5}, {}]}}",
        b"- a list",
        b"\xff\xfe\x00",
        b"a: [",
    ],
)
def test_damaged_lock_file_is_ignored(project, damaged):
    (project / "dvc.lock").write_bytes(damaged)
    assert find_shared_outputs([FACE, AUDIO]) is None


def test_missing_lock_file_is_ignored(project):
    (project / "dvc.lock").unlink()
    assert find_shared_outputs([FACE, AUDIO]) is None


@pytest.mark.usefixtures("project")
def test_output_without_a_number_of_files_is_one_file():
    table = Path("data/quarantine/extract-face.csv")
    assert find_shared_outputs([table]) == SharedOutputs((str(table),), size=10, files=1)
