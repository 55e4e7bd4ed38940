"""Read files of another version of a project: a git revision, a DVC experiment, or another folder.

Files of a revision are copied to a temporary folder, from git and from the cache or the remote of DVC. The working tree
and its index are not changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.errors import EcmfError, InputError, MissingInput


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a project whose files can be read.

    Attributes:
        name: The revision, the experiment or the folder, as the user named it.
        commit: The commit, in hex; empty for a folder.
        folder: A folder with the files at their places in the project.
    """

    name: str
    commit: str
    folder: Path


@contextmanager
def open_version(name: str, files: Sequence[Path]) -> Iterator[Version]:
    """Make some files of a version readable inside the block.

    A folder with a params.yaml is a project; other names are revisions or experiments of the project of the current
    directory.

    Args:
        name: A folder, a git revision, or the name of a DVC experiment.
        files: Files and folders to copy if the version is a revision. Those that the revision does not have are left
            out.

    Raises:
        InputError: If ``name`` is neither a project nor a revision.
        MissingInput: If a file of the revision is neither in the cache of DVC nor in a remote.
    """
    if not name.strip():
        raise InputError("the name of a version is empty", "give a folder, a git revision or a DVC experiment")
    if (Path(name) / paths.PARAMS).is_file():
        yield Version(name, "", Path(name))
        return
    with tempfile.TemporaryDirectory(prefix="ecmf-revision-") as folder:
        commit = _copy_revision(name, files, Path(folder))
        try:
            yield Version(name, commit, Path(folder))
        except EcmfError as error:  # the temporary folder does not exist any more when the user reads the message
            error.message = error.message.replace(f"{folder}/", f"{name}:")
            raise


def _copy_revision(name: str, files: Sequence[Path], folder: Path) -> str:
    """Copy files of a revision into a folder, and return its commit."""
    # Imported here because DVC takes a second to import.
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import NoSCMError, RevError, resolve_rev
    from scmrepo.exceptions import SCMError

    try:
        with Repo() as repository:
            git = repository.scm
            commit = str(resolve_rev(git, name))
            top, project = Path(git.root_dir), Path(repository.root_dir)
            # The remotes and the cache of today: the revision may be older than their settings.
            config = {name: dict(repository.config[name]) for name in ("core", "cache", "remote")}
            config["cache"]["dir"] = repository.cache.local_cache_dir
    except (NotDvcRepoError, NoSCMError) as error:
        raise InputError(
            f"{name!r} is no folder with {paths.PARAMS}, and the current directory is no DVC project in a git "
            "repository",
            "give the folder of a project, or change to the project that has the revision",
        ) from error
    except (RevError, SCMError) as error:  # SCMError: a repository without a commit
        raise InputError(
            f"{name!r} is no folder with {paths.PARAMS}, and no known git revision or DVC experiment",
            "list the revisions by git log --oneline, and the experiments by",
            command="dvc exp list --all-commits",
        ) from error
    # The factory is for a project in a folder of the git repository, `config` for one at its top.
    factory = partial(Repo, config=config)
    system = DVCFileSystem(repo=str(top), rev=commit, subrepos=True, config=config, repo_factory=factory)
    for path in files:
        source = (project.relative_to(top) / path).as_posix()
        try:
            info: dict[str, Any] = system.info(source)
        except FileNotFoundError:
            continue
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            system.get(source, str(target), recursive=info["type"] == "directory")
        except (OSError, DvcException) as error:
            raise _not_cached(name, path) from error
        if info["type"] == "directory" and not (target.is_dir() and any(target.iterdir())):
            raise _not_cached(name, path)
    return commit


def _not_cached(name: str, path: Path) -> MissingInput:
    return MissingInput(
        f"{name}: {path} is neither in the DVC cache nor in a remote",
        "fetch it from a remote that has it, or run the pipeline at that revision",
        command=f"dvc fetch --run-cache --all-commits {path}",
    )
