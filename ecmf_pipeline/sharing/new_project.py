"""Create a project folder with dvc.yaml and params.yaml, a git repository and a DVC project."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import ecmf_pipeline
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.files import write_atomic

IGNORED = {
    "data": [
        ".index-cache.json",
        ".last-scan.json",
        ".digests.json",
        ".index.spool",
        ".index.lock",
        ".transcripts.spool",
        ".rewrite.spool",
        ".votes.spool",
        "models",
        "sample",
        "manifest.csv",
        "corpus.json",
        "settings",
        "transcripts",
        "rewrite",
        "votes",
        "ablation",
        "submission_given.csv",
        "submission.csv",
        "transfer.json",
        "report",
    ],
    "data/index": ["findings.csv", "findings.csv.sha256"],
    "data/cues": ["audio.csv", "audio.csv.sha256", "face.csv", "face.csv.sha256"],
    "data/features": [
        "global.zarr",
        "face.zarr",
        "audio.zarr",
        "text.zarr",
        ".*.zarr.spool",
        ".*.zarr.lock",
        ".*.zarr.damaged",
    ],
    "data/quarantine": [
        "index.csv",
        "extract-global.csv",
        "extract-face.csv",
        "extract-audio.csv",
        "extract-text.csv",
        "transcribe.csv",
        "rewrite.csv",
        "vote.csv",
        "vote-cues.csv",
        "vote-frames.csv",
        "vote-examples-*.csv",
    ],
    "data/fusion": ["given", "refined"],
    "data/predictions": ["given", "refined"],
    "data/labels": ["next.csv", "refined.csv", "refined.csv.sha256"],
}
"""Files that DVC tracks and git must ignore, by folder."""


def make_project(folder: Path) -> None:
    """Copy dvc.yaml and params.yaml to ``folder`` and make it a DVC project.

    Raises:
        InputError: If the folder already holds one of the two files, or git or DVC fails.
    """
    for name in ("dvc.yaml", "params.yaml"):
        if (folder / name).exists():
            raise InputError(f"{folder / name} already exists", "choose a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(_template(name), folder / name)
    for below, names in IGNORED.items():
        # DVC adds these lines itself, but removes them if a run fails.
        write_atomic(folder / below / ".gitignore", "".join(f"/{name}\n" for name in names))
    if not _is_inside_git(folder):
        _run(["git", "init", "--quiet"], folder)
    if not (folder / ".dvc").is_dir():
        _run(["dvc", "init", "--quiet", "--subdir"], folder)
        _run(["dvc", "config", "core.analytics", "false"], folder)


def _template(name: str) -> Path:
    package = Path(ecmf_pipeline.__file__).parent
    packaged = package / "template" / name
    return packaged if packaged.is_file() else package.parent / name  # in a checkout they are at the top level


def _is_inside_git(folder: Path) -> bool:
    command = ["git", "rev-parse", "--is-inside-work-tree"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def _run(command: list[str], folder: Path) -> None:
    try:
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise InputError(f"{command[0]} is not installed", f"install {command[0]}") from error
    if process.returncode:
        hint = f"fix the problem that {command[0]} reports, then run the command again"
        raise InputError(f"{' '.join(command)} failed: {process.stderr.strip()}", hint)
