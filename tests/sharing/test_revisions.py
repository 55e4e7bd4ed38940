"""Files of git revisions and DVC experiments, read without a change of the working tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.sharing.revisions import open_version

FILES = (paths.PARAMS, paths.MANIFEST, paths.predictions("given"), paths.REFINED)
FUSION = paths.predictions("given") / "fusion.csv"


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        **{f"GIT_{who}_{what}": "team@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=100
    ).stdout


def write(folder: Path, content: str) -> None:
    for path in (paths.MANIFEST, FUSION):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    (folder / paths.PARAMS).write_text(f"value: {content}\n")


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A git repository whose folder ``project`` has two commits and an experiment; tests copy it."""
    top = tmp_path_factory.mktemp("repository")
    project = top / "project"
    project.mkdir()
    run(top, "git", "init", "--quiet", "--initial-branch", "main")
    run(project, "dvc", "init", "--quiet", "--subdir")
    for content in ("first", "second"):
        write(project, content)
        run(project, "dvc", "add", "--quiet", str(paths.MANIFEST), str(paths.predictions("given")))
        run(top, "git", "add", "--all")
        run(top, "git", "commit", "--quiet", "--message", content)
    write(project, "third")
    run(project, "dvc", "add", "--quiet", str(paths.MANIFEST), str(paths.predictions("given")))
    run(project, "dvc", "exp", "save", "--quiet", "--name", "wider")
    write(project, "unsaved")
    return top


@pytest.fixture
def project(repository, tmp_path, monkeypatch) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy, symlinks=True)
    monkeypatch.chdir(copy / "project")
    return copy / "project"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "content"), [("HEAD~1", "first"), ("main", "second"), ("wider", "third")])
def test_files_of_a_revision_are_those_of_its_commit(project, name, content):
    state = run(project, "git", "status", "--porcelain")
    with open_version(name, FILES) as version:
        assert len(version.commit) == 40
        assert (version.folder / paths.MANIFEST).read_text() == content
        assert (version.folder / FUSION).read_text() == content
        assert (version.folder / paths.PARAMS).read_text() == f"value: {content}\n"
        assert not (version.folder / paths.REFINED).exists()
        folder = version.folder
    assert not folder.exists()
    assert (project / FUSION).read_text() == "unsaved"
    assert run(project, "git", "status", "--porcelain") == state


@pytest.mark.slow
@pytest.mark.parametrize("with_remote", [False, True])
def test_files_that_are_not_in_the_cache_raise_missing_input(project, tmp_path, with_remote):
    if with_remote:
        (tmp_path / "remote").mkdir()
        run(project, "dvc", "remote", "add", "--default", "team", str(tmp_path / "remote"))
    shutil.rmtree(project / ".dvc" / "cache")
    with pytest.raises(MissingInput) as caught, open_version("HEAD~1", FILES):
        pass
    assert str(paths.MANIFEST) in caught.value.message
    assert caught.value.command == f"dvc fetch --run-cache --all-commits {paths.MANIFEST}"


@pytest.mark.slow
def test_files_that_are_only_in_the_remote_are_fetched(project, tmp_path):
    run(project, "dvc", "remote", "add", "--default", "team", str(tmp_path / "remote"))
    run(project, "dvc", "push", "--quiet")
    shutil.rmtree(project / ".dvc" / "cache")
    with open_version("wider", FILES) as version:
        assert (version.folder / FUSION).read_text() == "third"


@pytest.mark.slow
def test_errors_inside_the_block_name_the_revision(project):
    with pytest.raises(InputError, match=r"^main:data/manifest.csv is damaged"), open_version("main", FILES) as version:
        raise InputError(f"{version.folder / paths.MANIFEST} is damaged")


@pytest.mark.slow
def test_unknown_names_raise_input_error(project):
    for name in ("nonsense", "data"):
        with pytest.raises(InputError, match="no known git revision") as caught, open_version(name, FILES):
            pass
        assert caught.value.command == "dvc exp list --all-commits"


def test_outside_of_a_repository_names_raise_input_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no DVC project in a git repository"), open_version("main", FILES):
        pass


def test_a_repository_without_a_commit_raises_input_error(tmp_path, monkeypatch):
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "dvc", "init", "--quiet")
    monkeypatch.chdir(tmp_path)
    for name in ("HEAD", "some-experiment"):
        with pytest.raises(InputError), open_version(name, FILES):
            pass


def test_a_folder_is_read_in_place(tmp_path):
    (tmp_path / paths.PARAMS).write_text("")
    with open_version(str(tmp_path), FILES) as version:
        assert (version.folder, version.commit) == (tmp_path, "")
