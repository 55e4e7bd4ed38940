"""Run `index` and `extract` on the zoo through the command line."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from tests.zoo.films import Film
from tests.zoo.specimens import Specimen, write_healthy, write_zoo

REPOSITORY = Path(__file__).parents[2]
FAULTY_DECODER = REPOSITORY / "tests" / "media" / "faulty_decoder"
DECODER_FAULTS: Mapping[str, str] = MappingProxyType(
    {"hangs": "ClipTimeout", "segfaults": "WorkerCrashed", "aborts": "WorkerCrashed", "eats": "OutOfMemory"}
)
"""Clips on which the faulty decoder always fails, with the expected reason."""

DECODER_FAULT_ONCE = "segfaults_once"
BRANCHES = ("global", "audio")
SECONDS = 4.0
"""Timeout of a clip, with a margin for a busy machine: a 4K clip takes half a second on an idle one."""


@dataclass(frozen=True)
class ZooRun:
    """An indexed and extracted corpus: the zoo, valid clips, and clips on which the decoder fails.

    Attributes:
        project: The project folder.
        specimens: The zoo.
        films: The valid clips by id.
        stderr: Standard error of `extract`.
    """

    project: Path
    specimens: list[Specimen]
    films: dict[str, Film]
    stderr: str


def run_zoo(folder: Path, models: Path) -> ZooRun:
    """Write the zoo into a folder and run `index` and `extract` on it with two workers."""
    films = write_healthy(folder / "clips")
    for name in (*DECODER_FAULTS, DECODER_FAULT_ONCE):
        Film().write(folder / "clips" / f"{name}.mp4")
    specimens = write_zoo(folder / "clips")
    project = new_project(folder / "project", models, folder / "clips", {"clip_timeout": SECONDS})
    path = os.pathsep.join([str(FAULTY_DECODER), *filter(None, [os.environ.get("PYTHONPATH")])])
    for arguments in (("index",), (*extract_arguments(), "--workers", "2")):
        done = ecmf_pipe(project, *arguments, PYTHONPATH=path)
        if done.returncode:
            raise AssertionError(done.stderr)
    return ZooRun(project, specimens, films, done.stderr)


def extract_arguments() -> list[str]:
    """Return the `extract` command for the tested branches."""
    return ["extract", *(word for branch in BRANCHES for word in ("--modality", branch))]


def new_project(folder: Path, models: Path, clips: Path, extract: Mapping[str, float]) -> Path:
    """Create a project folder without DVC, which the tested commands do not need."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "models").symlink_to(models.resolve())
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["corpus"] |= {"kind": "folder", "root": str(clips)}
    params["media"] |= {"frames": 4, "max_side": 320, "reader": "decord"}  # the faulty decoder replaces decord
    params["index"]["max_quarantined"] = 1.0
    params["extract"] |= {"max_quarantined": 1.0, **extract}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def ecmf_pipe(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command in a project folder."""
    return subprocess.run(
        [sys.executable, "-m", "ecmf_pipeline", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def quarantined(project: Path, stage: str) -> dict[str, dict[str, str]]:
    """Read one quarantine table: its rows by clip id."""
    with (project / f"data/quarantine/{stage}.csv").open(newline="", encoding="utf-8") as file:
        return {row["clip_id"]: row for row in csv.DictReader(file)}
