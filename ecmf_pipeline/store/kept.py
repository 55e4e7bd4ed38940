"""Keep sealed parts in a folder that neither DVC nor Git changes, and restore lost parts from it.

DVC removes what dvc.lock does not record: `dvc exp run` starts with a forced checkout, and the temporary workspaces of
experiments are deleted. Sealed parts never change, so each is also hard-linked here::

    .ecmf/.gitignore, .ecmf/.dvcignore       hide the folder from Git and DVC
    .ecmf/kept/data/features/face.zarr/1f0c9a77b2de/part-000000-5c1d0e9a/
    .ecmf/kept/data/rewrite/cache/77b2de1f0c9a/part-000000-9a5c1d0e.jsonl

The folder is in the main DVC project, also if the parts are in a temporary workspace. Without a DVC project nothing is
kept. Links take no space while the original exists. If links are impossible (another file system), files are copied.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ecmf_pipeline.core.console import warn
from ecmf_pipeline.core.errors import MissingInput, StoreError
from ecmf_pipeline.core.files import flush_folder, hide_folder, sha256_text, write_atomic
from ecmf_pipeline.core.paths import KEPT, dvc_project, main_project
from ecmf_pipeline.core.shards import SHARDS
from ecmf_pipeline.store.format import (
    PartAttributes,
    Parts,
    array_names,
    current_fingerprint,
    group_attributes,
    has_fingerprint,
    make_current,
    read_array,
    read_parts,
    settings_attributes,
    spool_folder,
)

DOCUMENT = "zarr.json"
"""File of the settings of a group of features; answers have none."""
_STAGING = "staging"
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors of hard links that do not prevent a copy."""
_STALE_SECONDS = 24 * 3600
"""Age of staged files after which the process that wrote them was certainly killed."""


class KeptParts:
    """The kept parts of one folder: those of one fingerprint, as folders (features) or files (answers).

    Nothing is kept of shards that are not merged.

    Attributes:
        project: The DVC project or temporary workspace of the folder; None outside of a DVC project.
        source: The folder in the workspace.
        folder: Its counterpart in the kept folder; None outside of a DVC project.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        # No command of DVC changes the stores of shards, which are beside the outputs of the stage.
        self.project = project = None if SHARDS in source.parts else dvc_project(source)
        self._root = main_project(project) / KEPT if project else None
        self.folder = None
        if project and self._root:
            self.folder = self._root / "kept" / Path(os.path.abspath(source)).relative_to(project)  # noqa: PTH100

    def names(self) -> set[str]:
        """Return the names of the kept parts."""
        return _part_names(self.folder) if self.folder else set()

    def missing(self) -> list[str]:
        """Return the names of the kept parts that the workspace lacks, sorted."""
        return sorted(names - _part_names(self.source)) if (names := self.names()) else []

    def keep(self, names: Iterable[str] | None = None) -> None:
        """Link parts of the workspace into the kept folder; a failure is a warning.

        Args:
            names: Names of the parts; None: all. Symbolic links are left out: DVC's cache holds their files.
        """
        if self.folder is None or self._root is None:
            return
        wanted = _part_names(self.source, linked=False) if names is None else set(names)
        new = sorted(wanted - self.names())
        if not new:
            return
        try:
            hide_folder(self._root)
            for name in new:
                with suppress(FileNotFoundError):  # merged into another part meanwhile
                    _place(self.source / name, self.folder / name, self._root / _STAGING)
            if (document := self.source / DOCUMENT).is_file():
                write_atomic(self.folder / DOCUMENT, document.read_bytes(), only_if_changed=True)
            flush_folder(self.folder)
        except OSError as error:
            warn(
                f"{self.folder}: parts of {self.source} could not be kept ({error.strerror})",
                "until they are committed by DVC, a forced checkout of DVC removes them",
            )

    def restore(self, names: Iterable[str], is_intact: Callable[[Path], bool], staging: Path) -> list[str]:
        """Link kept parts into the workspace; damaged ones are dropped instead, with a warning.

        Args:
            names: Names of the parts.
            is_intact: Reads a part and returns whether its content is the one that was sealed.
            staging: Folder on the file system of the workspace.

        Returns:
            The names of the restored parts.
        """
        restored: list[str] = []
        if self.folder is None:
            return restored
        for name in names:
            if not is_intact(self.folder / name):
                warn(f"{self.folder / name} is damaged and was removed; what it held is computed again")
                self.drop([name])
                continue
            _place(self.folder / name, self.source / name, staging)
            restored.append(name)
        if restored:
            flush_folder(self.source)
        return restored

    def drop(self, names: Iterable[str] | None = None) -> None:
        """Remove parts from the kept folder.

        Args:
            names: Names of the parts; None: all, with the folder.
        """
        if self.folder is None or self._root is None or not self.folder.is_dir():
            return
        for name in sorted(self.names() if names is None else self.names() & set(names)):
            _remove(self.folder / name, self._root / _STAGING)
        if not self.names():
            (self.folder / DOCUMENT).unlink(missing_ok=True)
            for folder in (self.folder, *self.folder.parents):
                if folder == self._root:
                    break
                with suppress(OSError):  # not empty
                    folder.rmdir()


def restore_features(root: Path, fingerprint: str) -> None:
    """Restore the kept parts with features that a settings group lacks; the group is created if it is lost too.

    Parts that others replaced, and parts whose rows are all present, are not restored. Each is read and verified first.

    Args:
        root: The store.
        fingerprint: Fingerprint of the settings.
    """
    folder = root / fingerprint
    kept = KeptParts(folder)
    missing = kept.missing()
    if kept.folder is None or not missing or not has_fingerprint(kept.folder.parent, fingerprint):
        return
    present, stored = read_parts(folder, fingerprint), read_parts(kept.folder, fingerprint)
    replaced = {*present.superseded, *(old for part in present.intact.values() for old in part.supersedes)}
    kept.drop(replaced & set(missing))
    replaced |= set(stored.superseded)
    held = {entry for name in present.intact for entry in _entries(present, name)}
    wanted = []
    for name in missing:
        entries = _entries(stored, name)
        if name in stored.damaged or (name not in replaced and entries - held):
            wanted.append(name)
            held |= entries
    if not wanted:
        return
    dim = settings_attributes(kept.folder)["dim"]

    def is_intact(part: Path) -> bool:
        return part.name in stored.intact and _is_intact(part, stored.intact[part.name], dim)

    if not has_fingerprint(root, fingerprint) or settings_attributes(folder)["dim"] is None:
        write_atomic(folder / DOCUMENT, (kept.folder / DOCUMENT).read_bytes())
    staging = spool_folder(root, f"restore-{uuid.uuid4().hex}")
    try:
        kept.restore(wanted, is_intact, staging)
    finally:
        for empty in (staging, staging.parent):
            with suppress(OSError):  # not empty, or nothing was staged
                empty.rmdir()
    if current_fingerprint(root) is None:
        make_current(root, fingerprint)


def lost_groups(root: Path) -> list[Path]:
    """Return the kept settings groups that a store lacks, as folders named by their fingerprint."""
    kept = KeptParts(root).folder
    documents = kept.glob(f"*/{DOCUMENT}") if kept else ()
    return sorted(path.parent for path in documents if not has_fingerprint(root, path.parent.name))


def _is_intact(folder: Path, part: PartAttributes, dim: int | None) -> bool:
    """Read a part; return whether its attributes have the hash in its name and all arrays their CRC-32C and shape."""
    try:
        shapes = {name: read_array(folder / name).shape for name in array_names(folder)}
    except (StoreError, OSError):
        return False
    return (
        folder.name.endswith(sha256_text(json.dumps(part.document()))[:8])
        and shapes.get("values", ())[1:] == (dim,)
        and {shape[0] for shape in shapes.values()} == {sum(part.length)}
    )


def _entries(parts: Parts, name: str) -> set[tuple[str, str]]:
    """Return clip and digest of each entry of a part; an empty set if it does not count."""
    part = parts.intact.get(name)
    return set() if part is None else set(zip(part.clip_id, part.digest, strict=True))


@dataclass(frozen=True, slots=True)
class KeptPart:
    """Disk usage of one kept part.

    Attributes:
        name: Name of the part.
        clips: Number of its rows of features or answers; 0 if it is damaged.
        bytes: Its size.
        only_here: Bytes of files that exist nowhere else (no other hard link).
        modified: When it was sealed, in seconds since the epoch.
        is_used: Whether the store or cache in the workspace has it too.
    """

    name: str
    clips: int
    bytes: int
    only_here: int
    modified: float
    is_used: bool


def list_kept() -> Iterator[tuple[KeptParts, list[KeptPart]]]:
    """Yield the kept folders of the DVC project in the current directory, sorted, with their parts."""
    project = dvc_project(KEPT)
    if project is None:
        return
    main = main_project(project)
    kept = main / KEPT / "kept"
    folders = {path.parent for path in kept.rglob("part-*") if not path.parent.name.startswith("part-")}
    for folder in sorted(folders):
        parts = KeptParts(main / folder.relative_to(kept))
        used = _part_names(parts.source)
        yield parts, [_kept_part(folder / name, name in used) for name in sorted(parts.names())]


def clear_staging() -> None:
    """Remove what killed processes left half-written in the kept folder of the current DVC project."""
    project = dvc_project(KEPT)
    staging = main_project(project) / KEPT / _STAGING if project else None
    for path in staging.iterdir() if staging and staging.is_dir() else ():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - _STALE_SECONDS:
                _delete(path)


def _kept_part(path: Path, is_used: bool) -> KeptPart:
    states = [file.stat() for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    size = sum(state.st_size for state in states)
    only_here = sum(state.st_size for state in states if state.st_nlink == 1)
    modified = max((state.st_mtime for state in states), default=0.0)
    return KeptPart(path.name, _count_clips(path), size, only_here, modified, is_used)


def _count_clips(part: Path) -> int:
    if part.is_file():
        return part.read_bytes().count(b"\n")
    try:
        return len(group_attributes(part).get("clip_id", ()))
    except (StoreError, MissingInput):
        return 0


def _part_names(folder: Path, *, linked: bool = True) -> set[str]:
    """Return the names of the parts of a folder; with ``linked=False`` without those that are symbolic links."""
    try:
        names = {entry.name for entry in os.scandir(folder) if entry.name.startswith("part-")}
    except FileNotFoundError:
        return set()
    return names if linked else {name for name in names if not _is_linked(folder / name)}


def _is_linked(part: Path) -> bool:
    file = part / DOCUMENT if part.is_dir() else part
    return file.is_symlink()


def _place(source: Path, target: Path, staging: Path) -> None:
    """Link a part to another folder under a temporary name, then rename it; another process may do the same."""
    staging.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = staging / f"part-{uuid.uuid4().hex}"
    try:
        _link(source, temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not target.exists():  # otherwise another process was faster
                raise
    finally:
        _delete(temporary)


def _link(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir()
        for path in source.iterdir():
            _link(path, target / path.name)
        return
    try:
        os.link(os.path.realpath(source), target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())


def _remove(path: Path, staging: Path) -> None:
    """Remove a part by one rename, then delete its files: readers never see half a part."""
    staging.mkdir(parents=True, exist_ok=True)
    temporary = staging / f"part-{uuid.uuid4().hex}"
    with suppress(FileNotFoundError):  # another process was faster
        path.rename(temporary)
    _delete(temporary)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
