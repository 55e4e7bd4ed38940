"""The zoo through the command line."""

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
from tests.zoo.specimens import Specimen, build, healthy

REPOSITORY = Path(__file__).parents[2]
FAULTY_DECODER = REPOSITORY / "tests" / "media" / "faulty_decoder"
BROKEN_BY_THE_DECODER: Mapping[str, str] = MappingProxyType(
    {"hangs": "ClipTimeout", "segfaults": "WorkerCrashed", "aborts": "WorkerCrashed", "eats": "OutOfMemory"}
)
"""Clips on which the faulty decoder fails every time, and the reason to be given."""

BROKEN_ONCE = "segfaults_once"
BRANCHES = ("global", "audio")
SECONDS = 4.0
"""A clip's time, for a busy machine: a 4K clip takes half a second on an idle one."""


@dataclass(frozen=True)
class ZooRun:
    """The zoo beside healthy clips and clips on which the decoder fails, indexed and extracted.

    Attributes:
        project: The project folder.
        specimens: The zoo.
        films: The healthy clips by id.
        stderr: What `extract` wrote to standard error.
    """

    project: Path
    specimens: list[Specimen]
    films: dict[str, Film]
    stderr: str


def run_zoo(folder: Path, models: Path) -> ZooRun:
    """Make the zoo in a folder and run `index` and `extract` on it with two workers."""
    films = healthy(folder / "clips")
    for name in (*BROKEN_BY_THE_DECODER, BROKEN_ONCE):
        Film().write(folder / "clips" / f"{name}.mp4")
    specimens = build(folder / "clips")
    project = new_project(folder / "project", models, folder / "clips", {"clip_timeout": SECONDS})
    path = os.pathsep.join([str(FAULTY_DECODER), *filter(None, [os.environ.get("PYTHONPATH")])])
    for words in (("index",), (*extract_words(), "--workers", "2")):
        done = ecmf_pipe(project, *words, PYTHONPATH=path)
        if done.returncode:
            raise AssertionError(done.stderr)
    return ZooRun(project, specimens, films, done.stderr)


def extract_words() -> list[str]:
    """`extract` of the branches that are judged."""
    return ["extract", *(word for branch in BRANCHES for word in ("--modality", branch))]


def new_project(folder: Path, models: Path, clips: Path, extract: Mapping[str, float]) -> Path:
    """A project folder without DVC, which these verbs do not need."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "models").symlink_to(models.resolve())
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["corpus"] |= {"kind": "folder", "root": str(clips)}
    params["media"] |= {"frames": 4, "max_side": 320, "reader": "decord"}  # the one that is made faulty
    params["index"]["max_quarantined"] = 1.0
    params["extract"] |= {"max_quarantined": 1.0, **extract}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def ecmf_pipe(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one verb in a project folder."""
    return subprocess.run(
        [sys.executable, "-m", "ecmf_pipeline", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def quarantined(project: Path, stage: str) -> dict[str, dict[str, str]]:
    """The rows of one quarantine table, by clip id."""
    with (project / f"data/quarantine/{stage}.csv").open(newline="", encoding="utf-8") as file:
        return {row["clip_id"]: row for row in csv.DictReader(file)}
