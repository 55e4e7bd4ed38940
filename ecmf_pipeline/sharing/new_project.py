"""Create a project folder with dvc.yaml and params.yaml, a git repository and a DVC project."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import ecmf_pipeline
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.sharing.found_corpus import write_corpus

IGNORED = {
    "": ["dvc_plots"],
    "data": [
        ".index-cache.json",
        ".last-scan.json",
        ".resources.json",
        ".digests.json",
        ".trial.json",
        ".languages.npz",
        ".translation-languages.npz",
        ".index.spool",
        ".index.lock",
        ".transcripts.spool",
        "segments",
        ".segments.spool",
        ".last-segmentation.json",
        ".rewrite.spool",
        ".votes.spool",
        ".shards",
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
    "data/index": ["findings.csv", "findings.csv.sha256", "votes.csv", "votes.csv.sha256"],
    "data/cues": ["audio.csv", "audio.csv.sha256", "face.csv", "face.csv.sha256"],
    "data/features": [
        "global.zarr",
        "face.zarr",
        "audio.zarr",
        "text.zarr",
        ".*.zarr.spool",
        ".shards",
        ".*.zarr.lock",
        ".*.zarr.damaged",
    ],
    "data/quarantine": [
        "index.csv",
        "extract-global.csv",
        "extract-face.csv",
        "extract-audio.csv",
        "extract-text.csv",
        "segment.csv",
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
    "data/metrics": ["index.json", "refine.json", "evaluate.json", "sources.json", "ablate.json"],
    "data/metrics/plots": [
        "training_given.csv",
        "training_refined.csv",
        "confusion.csv",
        "models.csv",
        "reliability.csv",
    ],
}
"""Files that DVC tracks or computes and git must ignore, by folder."""

DVC_IGNORED = "/data/models/whisper_base"
"""Folder that DVC leaves out of account; see `core.weights.EmbeddedModel.on_demand`."""

COMMITTED = (".dvc", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml", "data")
"""Files and folders of a new project that git tracks; its folder may hold clips too."""


def make_project(folder: Path, corpus: CorpusConfig | None = None) -> bool:
    """Copy dvc.yaml and params.yaml to ``folder`` and make it a DVC project.

    Args:
        folder: The project folder.
        corpus: The corpus that params.yaml gets. None: the sample.

    If there is no git repository yet, one is created, and the files are committed if git knows the user: `dvc exp`
    needs a commit.

    Returns:
        Whether the files are committed. In a repository that existed before, the user decides.

    Raises:
        InputError: If the folder already holds one of the two files, is ignored by git, is no folder, or git or DVC
            fails.
        PermissionError: If the folder is read-only.
    """
    for name in ("dvc.yaml", "params.yaml"):
        if (folder / name).exists():
            raise InputError(f"{folder / name} already exists", "choose a new folder")
    if blocked := next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None):
        raise InputError(f"{blocked} is not a folder", "choose another name for the project folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):  # git and DVC would not name the folder
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder / "dvc.yaml"))
    is_new_repository = not _succeeds(["git", "rev-parse", "--is-inside-work-tree"], folder)
    if is_new_repository:
        _run(["git", "init", "--quiet"], folder)
    elif _succeeds(["git", "check-ignore", "--quiet", "."], folder):
        raise InputError(
            f"git ignores {folder}, so DVC cannot be used there",
            "choose a folder outside of this git repository, or remove its line from .gitignore",
        )
    # Before the files: after a failure, the command can be run again.
    if not (folder / ".dvc").is_dir():
        dvc = [sys.executable, "-m", "dvc"]  # of this environment, which need not be activated
        _run([*dvc, "init", "--subdir"], folder)
        _run([*dvc, "config", "core.analytics", "false"], folder)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(_template(name), folder / name)
    if corpus is not None:
        write_corpus(folder / "params.yaml", corpus)
    for below, names in IGNORED.items():
        # DVC adds these lines itself, but removes them if a run fails.
        _add_lines(folder / below / ".gitignore", [f"/{name}" for name in names])
    _add_lines(folder / ".dvcignore", [DVC_IGNORED])
    commit = ["git", "-c", "user.useConfigOnly=true", "commit", "--quiet", "--message", "Create project"]
    return is_new_repository and _succeeds(["git", "add", *COMMITTED], folder) and _succeeds(commit, folder)


def _add_lines(path: Path, lines: Sequence[str]) -> None:
    """Add the lines that a file lacks; create it if it does not exist."""
    present = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    added = [line for line in lines if line not in present]
    write_atomic(path, "".join(f"{line}\n" for line in [*present, *added]))


def next_commands(folder: Path, *, committed: bool) -> list[str]:
    """Return the shell commands to run after `make_project`."""
    here = folder.resolve() == Path.cwd()
    commands = [] if here else [f"cd {shlex.quote(str(folder))}"]
    scripts = Path(sys.executable).parent
    if shutil.which("ecmf-pipe") is None and (scripts / "ecmf-pipe").is_file():
        commands.append(f"export PATH={shlex.quote(str(scripts))}:$PATH")  # dvc.yaml calls ecmf-pipe by its name
    if not committed:
        commands.append(f"git add {' '.join(COMMITTED)} && git commit -m 'Create project'")
    return [*commands, "ecmf-pipe models && ecmf-pipe doctor", "dvc repro"]


def _template(name: str) -> Path:
    package = Path(ecmf_pipeline.__file__).parent
    packaged = package / "template" / name
    return packaged if packaged.is_file() else package.parent / name  # in a checkout they are at the top level


def _succeeds(command: list[str], folder: Path) -> bool:
    return _process(command, folder).returncode == 0


def _run(command: list[str], folder: Path) -> None:
    process = _process(command, folder)
    if process.returncode:
        program = "git" if command[0] == "git" else "DVC"
        hint = f"fix the problem that {program} reports, then run the command again"
        raise InputError(f"{shlex.join(command)} failed: {process.stderr.strip()}", hint)


def _process(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise InputError(f"{command[0]} is not installed", f"install {command[0]}") from error
