"""What the params of all encoders have in common: fields, the weights that they name, the device and precision.

Weights are told from file names and hashes. torch is imported only where a device has to be asked. `registry` maps the
class of a config to the encoder that it describes.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import ModelError, ParamsError
from ecmf_pipeline.core.files import remembered_sha256

if TYPE_CHECKING:
    import torch

Layers = Literal["last", "last4_mean", "last4_sum"] | Annotated[tuple[int, ...], Field(min_length=1)]
"""The last hidden layer, the mean or sum of the last four, or the mean of those named: 0 is what enters the first
layer, -1 what leaves the last."""

Precision = Literal["fp32", "bf16", "fp16", "auto"]
"""The type that matrices are multiplied in; ``auto``: the fastest that the device has instructions for."""

TextColumn = Literal["original", "enriched", "translation"]
"""What an encoder may read of a `core.clips.ClipText`."""

DEFAULT_TEXT_COLUMNS: tuple[TextColumn, ...] = ("original",)
"""What is read unless something else is said."""

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


def pick_device(device: str) -> torch.device:
    """The torch device that ``device`` names.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:<n>``.

    Raises:
        ParamsError: When this machine has no such device.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ParamsError(f"device {device!r} is not one that torch knows", "auto, cpu, cuda or cuda:<n>") from error
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ParamsError(f"device {device!r} is not on this machine", "set the device to auto or cpu")
    return picked


def best_precision(device: str) -> Precision:
    """The fastest precision that a device has instructions for: bf16, else (older CUDA) fp16, else fp32."""
    import torch

    from ecmf_pipeline.runner.machine import multiplies_bf16

    picked = pick_device(device)
    if picked.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(picked) >= (8, 0) else "fp16"
    return "bf16" if picked.type == "cpu" and multiplies_bf16() else "fp32"


class BaseEncoderConfig(Config):
    """What every encoder's params have.

    Attributes:
        batch_size: Items (frames, crops, clips or texts) in one forward pass; does not change the numbers.
    """

    modalities: ClassVar[frozenset[Modality]]
    """The modalities that the encoder can serve."""
    recipe: ClassVar[int] = 1
    """Raised by one whenever a change of code changes the numbers."""
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size"})
    """Fields that do not change the numbers, or stand in the settings as a hash or elsewhere."""
    uses_torch: ClassVar[bool] = True
    """Whether it runs where ``extract.device`` says."""
    computed_by: ClassVar[frozenset[str]] = frozenset({"torch"})
    """Packages whose version may move the numbers."""
    dim: ClassVar[int | None] = None
    """D, the width of a feature row, where that is the same for all params; see `known_dim`."""

    batch_size: int = Field(16, gt=0)

    def libraries(self) -> frozenset[str]:
        """The packages that compute it, numpy apart, as their versions are kept beside the features."""
        return self.computed_by

    @property
    def text_columns(self) -> tuple[TextColumn, ...]:
        """The transcripts that it reads, if it reads any: a clip that lacks one of them has no text for it."""
        return DEFAULT_TEXT_COLUMNS

    def named(self, name: str) -> Self:  # noqa: ARG002 - computed features do not depend on what they are called
        """These params as those of the entry ``name`` under ``encoders``."""
        return self

    def resolved(self, device: str) -> Self:  # noqa: ARG002 - what a device decides is told by those that have it
        """The same with all that is left to the device decided.

        Args:
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        """
        return self

    def half_types(self) -> frozenset[str]:
        """The types of half the width that it multiplies matrices in, ``bf16`` or ``fp16``, if any."""
        return frozenset()

    def known_dim(self) -> int | None:
        """D, the width of a feature row; None where it cannot be told without loading the encoder."""
        return self.dim

    def settings(self) -> dict[str, Any]:
        """All that changes the numbers, as plain JSON values: every field but those excepted, and the weights' hashes.

        Raises:
            ModelError: When weights are missing.
        """
        fields = self.model_dump(mode="json", exclude=set(self.not_in_settings))
        return {**fields, "recipe": self.recipe, "dtype": "float32", "weights": self.weights_settings()}

    def weights_settings(self) -> dict[str, Any]:
        """What identifies the weights, as plain JSON values.

        Raises:
            ModelError: When weights are missing.
        """
        return {}

    def origin(self) -> dict[str, Any]:
        """Which model this is, for people to read, as plain JSON values.

        The same on every machine: no folder that only this one has is named.
        """
        return {"model": str(getattr(self, "type", type(self).__name__))}


class TransformersConfig(BaseEncoderConfig):
    """What the params of all transformers models have.

    Attributes:
        model: A local folder, or an id on the model hub. Code that comes with a model is never run.
        revision: Branch, tag or commit on the hub. Once fetched, a branch stays at the commit in the local cache.
        precision: The type that matrices are multiplied in (norms, sums and the stored features are not touched by it):
            half types are about twice as fast where the device has instructions for them. ``auto`` is bf16 on CUDA from
            compute capability 8 and on CPUs with such instructions, fp16 on older CUDA, else fp32: features made on
            different devices may then have different fingerprints.
    """

    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "model", "revision"})
    computed_by: ClassVar[frozenset[str]] = frozenset({"torch", "transformers"})

    model: str = Field(min_length=1)
    revision: str = "main"
    precision: Precision = "fp32"

    def resolved(self, device: str) -> Self:
        """The same with ``precision: auto`` decided; see `BaseEncoderConfig.resolved`."""
        if self.precision != "auto":
            return self
        return self.model_copy(update={"precision": best_precision(device)})

    def half_types(self) -> frozenset[str]:
        """Its precision, unless that is fp32."""
        return frozenset({self.precision}) - {"fp32"}

    def source(self) -> ModelSource:
        """Where the model is loaded from; what `settings` hashes is what the encoder loads.

        Raises:
            ModelError: When it cannot be found.
        """
        return locate(self.model, self.revision)

    def known_dim(self) -> int | None:
        """The hidden size, told by the model's own config; None where that is not on this machine, or does not say."""
        values = read_model_config(self.model, self.revision)
        tower = values.get("vision_config", values)  # of a model with two towers
        width = tower.get("hidden_size") or tower.get("d_model")
        return width if isinstance(width, int) else None

    def weights_settings(self) -> dict[str, Any]:
        """The hub's commit, or the SHA-256 of each file of the folder."""
        return self.source().settings()

    def origin(self) -> dict[str, Any]:
        """The id on the hub, the revision asked for and the commit that it is; of a folder, its name."""
        source = self.source()
        if source.commit is None:
            return {"model": Path(self.model).name}
        return {"model": self.model, "revision": self.revision, "commit": source.commit}
