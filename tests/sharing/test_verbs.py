"""Tests that no verb of DVC loses features, answers or transcripts: after each, nothing is computed again.

Each test copies a project with 6 committed clips and 4 more that were computed by a direct command, as the README
recommends, and are unknown to dvc.lock.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.sharing.conftest import Checkout
from tests.sharing.test_cache_types import damaged_objects

pytestmark = pytest.mark.slow

STAGE = Path(__file__).with_name("cached_stage.py")
OUTS = ("data/features/audio.zarr", "data/rewrite", "data/transcripts")
VERDICTS = "clip_id,label\nclip1,happy\nclip9,sad\n"


def part_files(folder: Path, out: str) -> dict[str, Path]:
    """Return the files of all parts of an output, by path."""
    files = (path for path in (folder / out).rglob("*") if path.is_file() and "part-" in str(path))
    return {str(path.relative_to(folder)): path for path in files}


@dataclass(frozen=True)
class Project(Checkout):
    """A project whose only stage is `cached_stage`."""

    @property
    def log(self) -> Path:
        return Path(self.environment["COMPUTED"])

    def set(self, **params: int) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump({"clips": 10, "frames": 1} | params))

    def direct(self, **params: int) -> str:
        """Run the stage without DVC, as `ecmf-pipe extract`; return how many features, answers, transcripts it made."""
        self.set(**params)
        self(sys.executable, str(STAGE))
        return self.computed()[-1]

    def computed(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def files(self) -> dict[str, bytes]:
        return {name: path.read_bytes() for out in OUTS for name, path in part_files(self.folder, out).items()}

    def copy(self, folder: Path) -> Project:
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder, self.environment | {"COMPUTED": str(folder.with_suffix(".computed"))})


@pytest.fixture(scope="module")
def committed(tmp_path_factory, environment) -> Project:
    folder = tmp_path_factory.mktemp("verbs") / "project"
    folder.mkdir()
    python_path = str(Path(__file__).parents[2])
    project = Project(folder, environment | {"COMPUTED": f"{folder}.computed", "PYTHONPATH": python_path})
    outs = [{out: {"persist": True}} for out in OUTS]
    stage = {"cmd": f"{sys.executable} {STAGE}", "params": ["clips", "frames"], "outs": outs}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"extract": stage}}))
    (folder / "data" / "features").mkdir(parents=True)
    (folder / "data" / ".gitignore").write_text("/rewrite\n/transcripts\n/.*.spool\n")
    (folder / "data" / "features" / ".gitignore").write_text("/audio.zarr\n/.*.spool\n/.*.lock\n")
    (folder / "labels").mkdir()
    (folder / "labels" / "verdicts.csv").write_text(VERDICTS)
    project.set(clips=6)
    project("git", "init", "--quiet")
    project("dvc", "init", "--quiet")
    project("dvc", "repro", "--quiet")
    project.commit("Six clips")
    return project


@pytest.fixture
def project(committed, tmp_path) -> Iterator[Project]:
    project = committed.copy(tmp_path / "project")
    assert project.direct() == "4 4 4"
    yield project
    assert (project.folder / "labels" / "verdicts.csv").read_text() == VERDICTS


def exp_run(project: Project) -> None:
    project("dvc", "exp", "run")


def exp_run_in_temporary_workspace(project: Project) -> None:
    project("dvc", "exp", "run", "--temp")


def exp_apply(project: Project) -> None:
    project("dvc", "exp", "run", "--name", "six", "--set-param", "clips=6")
    project("dvc", "exp", "apply", "six")


def exp_branch(project: Project) -> None:
    project("dvc", "exp", "run", "--name", "six", "--set-param", "clips=6")
    project("dvc", "exp", "branch", "six", "other")
    project("git", "stash", "--quiet")
    project("git", "checkout", "--quiet", "other")
    project("dvc", "checkout", "--force")


def checkout(project: Project) -> None:
    project("git", "checkout", "--quiet", "params.yaml")
    project("dvc", "checkout", "--force")


def gc(project: Project) -> None:
    checkout(project)
    project("dvc", "gc", "--workspace", "--force")


def git_clean(project: Project) -> None:
    project("git", "clean", "-fdxq", "data")


def relink(project: Project) -> None:
    project("dvc", "config", "cache.type", "hardlink")
    project("dvc", "checkout", "--force", "--relink")
    project("dvc", "unprotect", *OUTS)
    project("dvc", "checkout", "--force", "--relink")


def remove(project: Project) -> None:
    project("dvc", "remove", "--outs", "extract")
    project("git", "checkout", "--quiet", "dvc.yaml", "data", "dvc.lock")


@pytest.mark.parametrize(
    "verb",
    [exp_run, exp_run_in_temporary_workspace, exp_apply, exp_branch, checkout, gc, git_clean, relink, remove],
)
def test_nothing_is_computed_again(verb: Callable[[Project], None], project):
    before = project.files()
    verb(project)
    assert project.direct() == "0 0 0"
    assert set(project.computed()[1:]) == {"0 0 0"}
    assert project.files() == before
    assert damaged_objects(project.folder / ".dvc" / "cache") == []
    assert project("git", "status", "--porcelain", "--untracked-files=all", ".ecmf") == ""


def test_what_a_queued_experiment_computes_is_not_computed_again(project):
    project("dvc", "exp", "run", "--queue", "--set-param", "clips=12")
    project("dvc", "queue", "start")
    deadline = time.monotonic() + 100
    while "Success" not in (status := project("dvc", "queue", "status")) and time.monotonic() < deadline:
        assert "Failed" not in status, project("dvc", "queue", "logs", status.split()[4])
        time.sleep(1)
    project("dvc", "queue", "stop")
    assert project.computed() == ["4 4 4", "2 2 2"]
    assert project.direct(clips=12) == "0 0 0"


def test_branches_with_other_params_compute_their_features_once(project):
    project("git", "checkout", "--quiet", "-b", "two-frames")
    assert project.direct(frames=2) == "10 10 10"
    project("git", "commit", "--quiet", "--all", "--message", "Two frames")
    for branch, frames in [("master", 1), ("two-frames", 2), ("master", 1)]:
        project("git", "checkout", "--quiet", branch)
        project("dvc", "checkout", "--force")
        assert project.direct(frames=frames) == "0 0 0"
        project("git", "checkout", "--quiet", "params.yaml")


def test_an_interrupted_push_loses_nothing(project, tmp_path):
    project("dvc", "repro", "--quiet")
    project("dvc", "remote", "add", "--default", "team", str(tmp_path / "remote"))
    push = subprocess.Popen(["dvc", "push"], cwd=project.folder, env=project.environment, stdout=subprocess.DEVNULL)
    remote = tmp_path / "remote" / "files"
    while push.poll() is None and not remote.exists():
        time.sleep(0.001)
    push.send_signal(signal.SIGKILL)
    push.wait()
    project("dvc", "checkout", "--force")
    assert project.direct() == "0 0 0"
    project("dvc", "push")
    assert damaged_objects(tmp_path / "remote") == damaged_objects(project.folder / ".dvc" / "cache") == []


def test_removed_features_are_computed_again_after_gc(project):
    for out in OUTS:
        shutil.rmtree(project.folder / out)
    project(sys.executable, "-m", "ecmf_pipeline", "cache", "gc", "--all")
    assert project.direct() == "10 10 10"


def test_kept_parts_share_their_files_with_the_cache_of_dvc(project):
    project("dvc", "repro", "--quiet")
    project.direct()
    kept = [path for out in OUTS for path in part_files(project.folder / ".ecmf" / "kept", out).values()]
    assert len(kept) == len(project.files()) > 10
    assert [path for path in kept if path.stat().st_nlink == 1] == []


def test_a_temporary_workspace_finds_the_corpus_and_reuses_features(ours, add_clips):
    add_clips(ours, 14, 16)  # `corpus`, relative and ignored by Git
    ours("ecmf-pipe", "index")
    assert "extract audio: 2 done, 14 reused" in ours("ecmf-pipe", "extract", "--modality", "audio")
    output = ours("dvc", "exp", "run", "--temp", "extract@audio")
    assert "16 clips" in output
    assert "extract audio: 0 done, 16 reused" in output
