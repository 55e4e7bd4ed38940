"""What a team shares through DVC: which outputs others may have computed already, and how to get them.

DVC's own files are read as they are: importing DVC takes about a second, which every run of `extract` would pay.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ecmf_pipeline.core.formatting import size

LOCK = Path("dvc.lock")
"""What DVC knows of every output that was ever made and committed to git: its hash, size and number of files."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """An output as dvc.lock knows it.

    Attributes:
        path: Where it belongs, relative to the project folder.
        size: Bytes.
        files: How many.
    """

    path: str
    size: int
    files: int


def pull_hint(store_paths: Sequence[Path], *, lock: Path = LOCK) -> str | None:
    """What to say before features are computed that somebody seems to have computed already.

    Args:
        store_paths: The stores that a run is about to write to, relative to the project folder.
        lock: The project's dvc.lock.

    Returns:
        One message with the command that fetches them; None where no store is absent that dvc.lock knows. A dvc.lock
        that is missing, damaged or in the midst of a merge knows nothing.
    """
    absent = {path.as_posix() for path in store_paths if not _holds_files(lock.parent / path)}
    if not absent:
        return None
    recorded = {out.path: out for out in recorded_outputs(lock) if out.path in absent and out.files}
    if not recorded:
        return None
    paths = " ".join(sorted(recorded))
    total, files = sum(out.size for out in recorded.values()), sum(out.files for out in recorded.values())
    known = f"dvc.lock knows features that are not here: {paths} ({size(total)}, {files} files)"
    remotes, default = _remotes(lock.parent)
    if not remotes:
        return (
            f"{known}\n  no DVC remote is configured: ask whoever made them for theirs (`dvc remote add -d NAME URL`), "
            f"then `dvc pull {paths}` may spare computing them; going on without"
        )
    option = "" if default else f"-r {remotes[0]} "
    command = f"dvc pull {option}{paths}"
    return f"{known}\n  `{command}` may spare computing them (Ctrl-C now loses nothing); going on without"


def recorded_outputs(lock: Path = LOCK) -> list[Recorded]:
    """The outputs of all stages that dvc.lock knows; none where it is missing, damaged or in the midst of a merge."""
    try:
        document = yaml.safe_load(lock.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []
    return [
        Recorded(out["path"], _count(out, "size"), _count(out, "nfiles"))
        for out in _outputs(document)
        if isinstance(out.get("path"), str)
    ]


def _outputs(document: Any) -> Iterator[dict[str, Any]]:
    """Every entry under ``outs`` that has the form of one."""
    stages = document.get("stages") if isinstance(document, dict) else None
    for stage in stages.values() if isinstance(stages, dict) else ():
        outs = stage.get("outs") if isinstance(stage, dict) else None
        yield from (out for out in (outs if isinstance(outs, list) else ()) if isinstance(out, dict))


def _count(out: dict[str, Any], key: str) -> int:
    value = out.get(key, 1 if key == "nfiles" else 0)  # of an output that is one file DVC notes no number
    return value if isinstance(value, int) else 0


def _holds_files(path: Path) -> bool:
    try:
        return path.is_file() or next(path.iterdir(), None) is not None
    except OSError:
        return False


def _remotes(project: Path) -> tuple[list[str], str | None]:
    """The names of the DVC remotes, and that of the default one: of the machine, the user, the project, the clone."""
    here = project.resolve()
    folder = next((above / ".dvc" for above in (here, *here.parents) if (above / ".dvc").is_dir()), here / ".dvc")
    user = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "dvc"
    names: list[str] = []
    default: str | None = None
    for path in (Path("/etc/xdg/dvc/config"), user / "config", folder / "config", folder / "config.local"):
        config = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
        try:
            config.read_string(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue
        # Sections stand as ['remote "name"'] in the file.
        names += [name.split('"')[1] for name in config.sections() if name.strip("'").startswith('remote "')]
        default = config.get("core", "remote", fallback=default)
    return list(dict.fromkeys(names)), default
