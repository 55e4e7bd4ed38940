"""What is said of stores that are not here though dvc.lock knows them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ecmf_pipeline.sharing.hints import pull_hint

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


def hint(*stores: Path) -> str | None:
    return pull_hint(stores or [FACE, AUDIO])


@pytest.mark.usefixtures("project")
def test_an_absent_store_is_named_with_its_size_and_the_command():
    said = hint()
    assert said is not None
    assert "`dvc pull data/features/face.zarr`" in said
    assert "2.5 GB" in said
    assert "40 files" in said
    assert str(AUDIO) not in said  # there is nothing in it to be pulled


def test_an_empty_folder_is_as_good_as_none(project):
    (project / FACE).mkdir(parents=True)
    assert hint() is not None


def test_nothing_is_said_of_stores_that_are_here_or_were_not_asked_for(project):
    assert hint(AUDIO) is None
    (project / FACE).mkdir(parents=True)
    (project / FACE / "zarr.json").write_text("{}")
    assert hint() is None


@pytest.mark.usefixtures("project")
def test_it_says_what_to_do_without_a_remote():
    assert "`dvc remote add -d NAME URL`" in (hint() or "")


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
def test_a_damaged_lock_file_knows_nothing(project, damaged):
    (project / "dvc.lock").write_bytes(damaged)
    assert hint() is None


def test_a_missing_lock_file_knows_nothing(project):
    (project / "dvc.lock").unlink()
    assert hint() is None


@pytest.mark.usefixtures("project")
def test_an_output_without_numbers_is_one_file():
    table = Path("data/quarantine/extract-face.csv")
    assert f"{table} (10 B, 1 files)" in (hint(table) or "")
