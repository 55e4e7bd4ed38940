"""Files at which the demuxer crashes or hangs are quarantined; tested with the real command line."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ecmf_pipeline.core.clips import read_manifest
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.corpora.measuring import BATCH_SIZE

FAULTY_DEMUXER = Path(__file__).parent / "faulty_demuxer"


class Project:
    """A project with a folder of clips and a faulty demuxer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = folder / "corpus"
        self.opened = folder / "opened.txt"
        self.set_params()

    def set_params(self, clip_timeout: float = 1, workers: int | None = 2) -> None:
        index = f"{{max_quarantined: 1, workers: {workers or 'null'}, clip_timeout: {clip_timeout}}}"
        (self.folder / "params.yaml").write_text(f"corpus: {{kind: folder, root: corpus}}\nindex: {index}\n")

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "ecmf_pipeline", "index"]

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(FAULTY_DEMUXER), os.environ.get("PYTHONPATH", "")])
        return os.environ | {"PYTHONPATH": path, "ECMF_OPENED": str(self.opened)}

    def index(self) -> str:
        done = subprocess.run(
            self.command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        assert not (self.folder / "data" / ".index.spool").exists()
        return done.stdout

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command, cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def count_opened(self) -> Counter[str]:
        """Count how often each file was opened since the last call."""
        counts = Counter(self.opened.read_text().splitlines()) if self.opened.exists() else Counter[str]()
        self.opened.unlink(missing_ok=True)
        return counts

    def quarantined(self) -> dict[str, dict[str, str]]:
        with (self.folder / "data" / "quarantine" / "index.csv").open() as file:
            return {row["clip_id"]: row for row in csv.DictReader(file)}


@pytest.fixture
def project(tmp_path: Path, write_media: Callable[..., Path]) -> Project:
    project = Project(tmp_path)
    for number in range(20):
        write_media(project.corpus / f"sound{number:02d}.mp4")
    return project


@pytest.mark.slow
def test_crashing_files_are_quarantined_and_not_retried(project: Project, write_media: Callable[..., Path]) -> None:
    faults = {
        "segfaults": "WorkerCrashed",
        "aborts": "WorkerCrashed",
        "hangs": "ClipTimeout",
        "eats": "OutOfMemory",
    }
    for name in [*faults, "segfaults once"]:
        write_media(project.corpus / f"{name}.mp4")
    assert "25 files read, 4 quarantined" in project.index()
    assert {name: row["reason"] for name, row in project.quarantined().items()} == faults
    assert "SIGSEGV" in project.quarantined()["segfaults"]["message"]
    clips = {clip.clip_id: clip for clip in read_manifest(project.folder / "data" / "manifest.csv")}
    assert all(clip.digest == sha256_file(project.corpus / clip.path) for clip in clips.values())
    assert {name for name, clip in clips.items() if not clip.has_video} == set(faults)
    manifest = (project.folder / "data" / "manifest.csv").read_bytes()
    project.count_opened()
    (project.folder / "data" / ".last-scan.json").unlink(missing_ok=True)
    assert "0 files read, 4 quarantined; manifest unchanged" in project.index()
    assert project.count_opened() == {}
    assert (project.folder / "data" / "manifest.csv").read_bytes() == manifest


@pytest.mark.slow
def test_timeout_is_retried_under_another_limit(project: Project, write_media: Callable[..., Path]) -> None:
    write_media(project.corpus / "hangs.mp4")
    write_media(project.corpus / "aborts.mp4")
    project.index()
    project.count_opened()
    project.set_params(clip_timeout=1.5)
    assert "1 file read, 2 quarantined" in project.index()
    assert set(project.count_opened()) == {"hangs.mp4"}


@pytest.mark.slow
def test_a_file_that_cannot_be_hashed_in_time_is_remembered_with_the_limit(
    project: Project, write_media: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECMF_SLOW_DISK", "1")
    project.set_params(clip_timeout=0.5)
    write_media(project.corpus / "slow.mp4")
    assert "21 files read, 1 quarantined" in project.index()
    entry = project.quarantined()["slow"]
    assert (entry["reason"], entry["digest"], entry["limit"]) == ("ClipTimeout", "", "0.5")
    for limit in (0.5, 0.4):  # not lifted
        project.count_opened()
        project.set_params(clip_timeout=limit)
        assert "0 files read, 1 quarantined" in project.index()
        assert project.count_opened() == {}
    project.set_params(clip_timeout=0.6)
    assert "1 file read, 1 quarantined" in project.index()
    assert project.quarantined()["slow"]["limit"] == "0.6"
    monkeypatch.delenv("ECMF_SLOW_DISK")
    project.set_params(clip_timeout=20)
    assert "1 file read, 0 quarantined" in project.index()


def test_file_of_killed_worker_is_retried(project: Project, write_media: Callable[..., Path]) -> None:
    write_media(project.corpus / "killed.mp4")
    project.index()
    assert project.quarantined()["killed"]["reason"] == "WorkerKilled"
    assert project.quarantined()["killed"]["digest"] == ""
    project.count_opened()
    assert "1 file read, 1 quarantined" in project.index()
    assert set(project.count_opened()) == {"killed.mp4"}


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_run_keeps_finished_batches(
    project: Project, write_media: Callable[..., Path], end: signal.Signals
) -> None:
    project.set_params(clip_timeout=100)
    for number in range(3 * BATCH_SIZE - 18):
        write_media(project.corpus / f"film{number:03d}.mp4")
    write_media(project.corpus / "zz hangs once.mp4")
    run = project.start()
    tried = project.folder / "zz hangs once.mp4.tried"
    batches = project.folder / "data" / ".index.spool"
    while not tried.exists() or len(list(batches.glob("*.batch"))) < 3:
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(end)
    assert run.wait(20) == (130 if end is signal.SIGINT else -end)
    project.count_opened()
    assert f"{3 * BATCH_SIZE + 3} clips" in project.index()
    assert sum(project.count_opened().values()) == 3


def test_two_runs_at_once_fail_with_store_busy(project: Project, write_media: Callable[..., Path]) -> None:
    project.set_params(clip_timeout=100)
    write_media(project.corpus / "hangs.mp4")
    run = project.start()
    while not (project.folder / "hangs.mp4.tried").exists():
        assert run.poll() is None
        time.sleep(0.01)
    second = subprocess.run(
        project.command, cwd=project.folder, env=project.environment, capture_output=True, text=True, check=False
    )
    run.send_signal(signal.SIGINT)
    run.wait(20)
    assert second.returncode == 2
    assert ".index-cache.json" in second.stderr
    assert "Traceback" not in second.stderr
