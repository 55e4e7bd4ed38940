"""Let kept parts share their files with DVC's cache, so that they take no space of their own.

`dvc commit` and `dvc repro` copy new files to DVC's cache. Unless ``cache.type`` is a kind of link, they also replace
the files in the workspace by copies. That leaves a kept part as a third copy. Its files are then replaced by hard links
to DVC's cache, which never changes a file. If the cache is on another file system, the copy remains.
"""

from __future__ import annotations

import configparser
import json
import os
import uuid
from pathlib import Path

from yaml import YAMLError

from ecmf_pipeline.core.documents import parse_yaml
from ecmf_pipeline.core.paths import DVC, main_project
from ecmf_pipeline.store.kept import KeptParts


def share_with_dvc(kept: KeptParts) -> None:
    """Replace the files that only the kept folder holds by hard links to DVC's cache, as far as it has them."""
    if kept.folder is None or kept.project is None or not kept.folder.is_dir():
        return
    alone = [
        path
        for name in kept.names()
        for path in ([kept.folder / name] if (kept.folder / name).is_file() else (kept.folder / name).rglob("*"))
        if path.is_file() and path.stat().st_nlink == 1
    ]
    if not alone:
        return
    objects = _cached_files(kept.project, Path(os.path.abspath(kept.source)))  # noqa: PTH100  (links are not followed)
    for path in alone:
        cached = objects.get(path.relative_to(kept.folder).as_posix())
        if cached is None:
            continue
        temporary = kept.folder / f".{uuid.uuid4().hex}"
        try:
            if cached.stat().st_size == path.stat().st_size:
                os.link(cached, temporary)
                temporary.rename(path)
        except OSError:
            continue  # another file system, or collected by `dvc gc`
        finally:
            temporary.unlink(missing_ok=True)


def _cached_files(project: Path, folder: Path) -> dict[str, Path]:
    """Return the file in DVC's cache of each file below ``folder`` that dvc.lock records, by relative path."""
    try:
        stages = parse_yaml((project / "dvc.lock").read_text(encoding="utf-8"))["stages"].values()
        outs = {project / out["path"]: out["md5"] for stage in stages for out in stage.get("outs", ()) if "md5" in out}
        root = next(path for path in outs if path == folder or path in folder.parents)
        cache = _cache_folder(project) / "files" / "md5"
        entries = json.loads(_cached_file(cache, outs[root]).read_bytes())
        files = {root / entry["relpath"]: entry["md5"] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, YAMLError):
        return {}  # nothing is committed, or the lock has conflicts
    return {
        path.relative_to(folder).as_posix(): _cached_file(cache, digest)
        for path, digest in files.items()
        if folder in path.parents
    }


def _cached_file(cache: Path, digest: str) -> Path:
    return cache / digest[:2] / digest[2:]


def _cache_folder(project: Path) -> Path:
    """Return the folder of DVC's cache: ``cache.dir`` of the project's configuration, or the default."""
    for name in ("config.local", "config"):
        file = project / DVC / name
        config = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            config.read(file, encoding="utf-8")
        except configparser.Error:
            continue
        if folder := config.get("cache", "dir", fallback=""):
            return file.parent / folder
    return main_project(project) / DVC / "cache"
