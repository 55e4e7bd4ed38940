"""Which weights a config means, told from file names and hashes alone: nothing here imports torch."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import remembered_sha256

MODELS_HINT = "run `ecmf-pipe models` to fetch the weights that this pipeline uses by default"

MODEL_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".json", ".txt", ".model", ".gguf", ".jinja"})
"""Files of a model folder that can change its numbers: weights, configs, vocabularies, templates."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a transformers model is loaded from.

    Attributes:
        name: A local folder, or an id on the model hub.
        commit: The hub's commit, in hex; None for a local folder.
    """

    name: str
    commit: str | None = None

    def settings(self) -> dict[str, object]:
        """What identifies the weights, as plain JSON values: the hub's commit, or the SHA-256 of each file."""
        if self.commit is not None:
            return {"model": self.name, "commit": self.commit}
        return {"files": folder_hashes(Path(self.name))}


def weights_hash(path: Path) -> str:
    """SHA-256 of a file of weights, in hex.

    Raises:
        ModelError: When it is missing.
    """
    if not path.is_file():
        raise ModelError(f"the weights {path} are missing", MODELS_HINT)
    return remembered_sha256(path)


def folder_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a model folder that can change its numbers, by its path inside the folder."""
    names = {path.relative_to(folder): path for path in folder.rglob("*") if path.suffix in MODEL_SUFFIXES}
    return {
        name.as_posix(): remembered_sha256(path)
        for name, path in sorted(names.items())
        if path.is_file() and not any(part.startswith(".") for part in name.parts)
    }


def locate(model: str, revision: str, needed: str = "config.json", *, hint: str = MODELS_HINT) -> ModelSource:
    """Find the model that ``model`` names: a local folder if there is one, else an id on the model hub.

    Args:
        model: A folder or an id.
        revision: Branch, tag or commit on the hub.
        needed: A file without which a folder is none of a model.
        hint: How to mend a folder that is missing, or none of a model.

    Raises:
        ModelError: When it is neither, or when the hub cannot be asked which commit ``revision`` is.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / needed).is_file():
            raise ModelError(f"{folder} holds no {needed}: it is not a transformers model", hint)
        return ModelSource(model)
    if not _HUB_ID.fullmatch(model):
        raise ModelError(f"the model folder {folder} is missing", hint)
    return ModelSource(model, _hub_commit(model, revision))


def hub_cache() -> Path:
    """The folder in which the model hub's client keeps what it has fetched, by the environment variables it reads."""
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(folder).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HOME", cache)).expanduser() / "hub"


def hub_reference(model: str, revision: str) -> Path:
    """The file in the hub's cache that says which commit a branch or tag is; there once it was asked for."""
    return hub_cache() / f"models--{model.replace('/', '--')}" / "refs" / revision


def read_model_config(model: str, revision: str) -> dict[str, Any]:
    """A model's config.json, from its folder or from what the hub's client has fetched; empty where it is in neither.

    Args:
        model: A folder or an id on the hub.
        revision: Branch, tag or commit on the hub.
    """
    if Path(model).is_dir():
        folder = Path(model)
    else:
        reference = hub_reference(model, revision)
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
        folder = hub_cache() / f"models--{model.replace('/', '--')}" / "snapshots" / commit
    try:
        values = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _hub_commit(model: str, revision: str) -> str:
    """The commit that ``revision`` is.

    The cached answer stands until the cache is emptied: a moving branch of the hub must not make features stale behind
    the user's back.
    """
    if _COMMIT.fullmatch(revision):
        return revision
    reference = hub_reference(model, revision)
    if not reference.is_file():
        _fetch_config(model, revision)  # which writes the reference
    if not reference.is_file():
        raise ModelError(f"{model}: the hub does not say which commit {revision!r} is", "name the commit as `revision`")
    return reference.read_text(encoding="utf-8").strip()


def _fetch_config(model: str, revision: str) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        hf_hub_download(model, "config.json", revision=revision, cache_dir=hub_cache())
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{model!r} is neither a folder here nor a model that the hub gives us ({type(error).__name__})",
            "name a local folder with a transformers model in it, or check the id, its revision and the network",
        ) from error
