"""Keep each version of a file that people write, because DVC may replace it.

`dvc exp apply` and `git checkout` replace files that Git tracks by those of another commit, with no warning.
"""

from __future__ import annotations

import os
from pathlib import Path

from ecmf_pipeline.core.console import format_count, warn
from ecmf_pipeline.core.files import hide_folder, sha256_file, write_atomic
from ecmf_pipeline.core.paths import KEPT, dvc_project, main_project

_DIGITS = 12


def keep_version(path: Path) -> None:
    """Keep a copy of a csv file in ``.ecmf/versions``; warn once if clips of the version before are missing in it.

    Without a DVC project, and in the temporary workspaces of experiments, nothing is kept.

    Args:
        path: A csv file whose first column is the clip, in the project.
    """
    project = dvc_project(path)
    if project is None or main_project(project) != project:
        return
    folder = project / KEPT / "versions" / Path(os.path.abspath(path)).relative_to(project)  # noqa: PTH100
    before = max(folder.glob(f"*{path.suffix}"), key=lambda version: version.stat().st_mtime_ns, default=None)
    if not path.is_file():
        if before:
            hint = f"restore it, or remove {folder.relative_to(project)} if you do not need it"
            warn(f"{path} does not exist any more", hint, f"cp {before.relative_to(project)} {path}")
        return
    kept = folder / f"{sha256_file(path)[:_DIGITS]}{path.suffix}"
    before = before or kept
    if before != kept and (lost := _clips(before) - _clips(path)):
        warn(
            f"{path} lacks {format_count(len(lost), 'clip')} that it had before; an earlier version is kept",
            "if you did not remove them, compare and restore it",
            f"diff {before.relative_to(project)} {path}",
        )
    if before != kept or not kept.is_file():
        hide_folder(project / KEPT)
        write_atomic(kept, path.read_bytes())


def _clips(path: Path) -> set[bytes]:
    return {line.partition(b",")[0] for line in path.read_bytes().splitlines()}
