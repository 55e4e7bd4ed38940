"""Keep the spools of temporary workspaces in the main DVC project.

DVC deletes the workspace of an experiment that ends, also if it was killed. Its finished batches, which are not yet in
a part, would be lost with it. They are therefore written to ``.ecmf/spool`` of the main project, in a folder for each
workspace, and the next writer of the same fingerprint adopts them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ecmf_pipeline.core.errors import StoreBusy
from ecmf_pipeline.core.files import exclusive_lock, hide_folder
from ecmf_pipeline.core.paths import DVC, KEPT, dvc_project, main_project
from ecmf_pipeline.core.shards import SHARDS

_LOCK = "lock"


def spool_of(folder: Path, lock: Path) -> tuple[Path, Path]:
    """Return the spool of a fingerprint and the lock of its writer; for a temporary workspace, in the main project.

    Those of a shard stay beside its results.

    Args:
        folder: The spool in the workspace.
        lock: The lock file in the workspace.
    """
    project = None if SHARDS in folder.parts else dvc_project(folder)
    if project is None or (main := main_project(project)) == project:
        return folder, lock
    if main.stat().st_dev != project.stat().st_dev:
        return folder, lock  # parts are renamed from the spool into the store
    workspace = "+".join(project.relative_to(main / DVC).parts)
    moved = main / KEPT / "spool" / workspace / _below(project, folder)
    hide_folder(main / KEPT)
    return moved, moved / _LOCK


def orphaned_spools(folder: Path) -> Iterator[Path]:
    """Yield the spools of the same fingerprint that runs in temporary workspaces have left, also of active runs.

    Args:
        folder: The spool in the workspace.
    """
    project = dvc_project(folder)
    if project is not None:
        for workspace in sorted((main_project(project) / KEPT / "spool").glob("*")):
            if (spool := workspace / _below(project, folder)).is_dir():
                yield spool


def adopt_spools(folder: Path, own: Path, log: str = "") -> None:
    """Move the batches of runs that ended in temporary workspaces to the spool of the caller.

    Args:
        folder: The spool in the workspace.
        own: The spool of the caller, as returned by `spool_of`.
        log: Name of a file of lines that is appended to that of the caller.
    """
    for spool in orphaned_spools(folder):
        if spool == own:
            continue
        try:
            with exclusive_lock(spool / _LOCK, str(spool)):
                own.mkdir(parents=True, exist_ok=True)
                for path in sorted(spool.glob("*.batch")):
                    path.rename(own / path.name)
                if log and (spool / log).is_file():
                    with (own / log).open("ab") as file:
                        file.write((spool / log).read_bytes())
                        file.flush()
                        os.fsync(file.fileno())
                shutil.rmtree(spool)
        except StoreBusy:
            continue  # the run is active
        for empty in spool.parents:
            if empty.name == "spool" and empty.parent.name == KEPT.name:
                break
            with suppress(OSError):  # not empty
                empty.rmdir()


def _below(project: Path, folder: Path) -> Path:
    return Path(os.path.abspath(folder)).relative_to(project)  # noqa: PTH100  (links are not followed)
