"""Fields and rules shared by the params of all encoders: weights, device and precision.

Weights are identified by file names and hashes. torch is imported only to query a device. `registry` maps the class of
a config to its encoder.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import MissingWeights, ModelError, ParamsError
from ecmf_pipeline.core.files import parse_json
from ecmf_pipeline.core.weights import MODELS_COMMAND, MODELS_HINT, Unknown, embedded_model_of, weights_sha256

if TYPE_CHECKING:
    import torch

Layers = Literal["last", "last4_mean", "last4_sum"] | Annotated[tuple[int, ...], Field(min_length=1)]
"""The last hidden layer, the mean or sum of the last four, or the mean of the given ones: 0 is the input of the first
layer, -1 the output of the last."""

Precision = Literal["fp32", "bf16", "fp16", "auto"]
"""Type of matrix multiplications; ``auto``: the fastest that the device has instructions for."""

TextColumn = Literal["original", "enriched", "translation"]
"""A field of `core.clips.ClipText` that an encoder may read."""

DEFAULT_TEXT_COLUMNS: tuple[TextColumn, ...] = ("original",)
"""The transcripts that are read by default."""

_MODEL_HINT = "set model to a model folder or an id on the model hub; for the default models, run"

MODEL_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".json", ".txt", ".model", ".gguf", ".jinja"})
"""Suffixes of the files of a model folder that can change its numbers: weights, configs, vocabularies, templates."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Location of a transformers model.

    Attributes:
        name: A local folder, or an id on the model hub.
        commit: The commit on the hub, in hex; None for a local folder.
    """

    name: str
    commit: str | None = None

    def settings(self) -> dict[str, object]:
        """Return the identity of the weights, as JSON values: the commit on the hub, or the SHA-256 of each file."""
        if self.commit is not None:
            return {"model": self.name, "commit": self.commit}
        return {"files": folder_hashes(Path(self.name))}


def folder_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a model folder that can change its numbers, by relative path.

    Raises:
        MissingWeights: If the folder of an embedded model is incomplete.
        ModelError: If it holds an altered or an additional file.
    """
    names = {path.relative_to(folder): path for path in folder.rglob("*") if path.suffix in MODEL_SUFFIXES}
    files = {
        name.as_posix(): path
        for name, path in sorted(names.items())
        if path.is_file() and not any(part.startswith(".") for part in name.parts)
    }
    if (known := _embedded_files(folder)) is not None:
        if missing := sorted(known.keys() - files.keys()):
            raise MissingWeights(f"{folder / missing[0]} does not exist", MODELS_HINT, command=MODELS_COMMAND)
        if additional := sorted(files.keys() - known.keys()):
            raise ModelError(
                f"{folder / additional[0]} is not part of the model, and may change its numbers",
                "move it away, or put the changed model into another folder",
            )
    return {name: weights_sha256(path) for name, path in files.items()}


def _embedded_files(folder: Path) -> dict[str, str] | None:
    """Return the SHA-256 of the files of an embedded model that change its numbers; None for other folders."""
    model = embedded_model_of(folder)
    if model is None:
        return None
    return {file.name: file.sha256 for file in model.files if Path(file.name).suffix in MODEL_SUFFIXES}


def settings_without_weights(model: str, revision: str, reason: str) -> dict[str, Any]:
    """Return the part of `ModelSource.settings` that is known without the weights; the rest is `Unknown`.

    Args:
        model: A folder or an id on the hub.
        revision: Branch, tag or commit on the hub.
        reason: Why the weights are missing.
    """
    if (known := _embedded_files(Path(model))) is not None:
        return {"files": known}
    return {"model": model, "commit": Unknown(reason, revision)} if is_hub_id(model) else {"files": Unknown(reason)}


def locate_model(
    model: str, revision: str, required_file: str = "config.json", *, hint: str | None = None
) -> ModelSource:
    """Find a model: a local folder if it exists, otherwise an id on the model hub.

    Args:
        model: A folder or an id.
        revision: Branch, tag or commit on the hub.
        required_file: A file that every model folder contains.
        hint: How to fix a model that is missing or is not one; None: the hint for an encoder.

    Raises:
        MissingWeights: If it is neither, or if the hub cannot return the commit of ``revision``.
    """
    folder = Path(model)
    command = None if hint else MODELS_COMMAND
    hint = hint or _MODEL_HINT
    if folder.is_dir():
        if not (folder / required_file).is_file():
            raise MissingWeights(f"model folder {folder} has no {required_file}", hint, command=command)
        return ModelSource(model)
    if not is_hub_id(model):
        raise MissingWeights(f"model folder {folder} does not exist", hint, command=command)
    return ModelSource(model, _hub_commit(model, revision, hint if command is None else None))


def is_hub_id(model: str) -> bool:
    """Return whether a model is an id on the model hub: it has the form of one, and there is no such folder."""
    return _HUB_ID.fullmatch(model) is not None and not Path(model).is_dir()


def hub_cache() -> Path:
    """Return the cache folder of the hub client, from the environment variables that the client reads."""
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(folder).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HOME", cache)).expanduser() / "hub"


def is_commit(revision: str) -> bool:
    """Return whether a revision is a commit, which never changes; a branch or tag may move."""
    return _COMMIT.fullmatch(revision) is not None


def cached_commits(model: str) -> list[str]:
    """Return the commits of a model in the hub cache, sorted; empty if it was never fetched."""
    return sorted(path.name for path in (_cached_model(model) / "snapshots").glob("*") if is_commit(path.name))


def _cached_model(model: str) -> Path:
    return hub_cache() / f"models--{model.replace('/', '--')}"


def hub_reference_path(model: str, revision: str) -> Path:
    """Return the file in the hub cache that maps a branch or tag to its commit; written by the first request."""
    return _cached_model(model) / "refs" / revision


def read_model_config(model: str, revision: str) -> dict[str, Any]:
    """Read the config.json of a model from its folder or the hub cache; return an empty dict if neither has it.

    Args:
        model: A folder or an id on the hub.
        revision: Branch, tag or commit on the hub.
    """
    if Path(model).is_dir():
        folder = Path(model)
    else:
        reference = hub_reference_path(model, revision)
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
        folder = _cached_model(model) / "snapshots" / commit
    try:
        values = parse_json((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _hub_commit(model: str, revision: str, hint: str | None = None) -> str:
    """Return the commit of ``revision``.

    The cached commit is used until the cache is emptied: a moving branch on the hub must not silently make features
    stale.
    """
    if is_commit(revision):
        return revision
    reference = hub_reference_path(model, revision)
    if not reference.is_file():
        _fetch_config(model, revision, hint)  # writes the reference
    if not reference.is_file():
        raise ModelError(f"the hub returned no commit for revision {revision!r} of {model}", "set revision to a commit")
    return reference.read_text(encoding="utf-8").strip()


def _fetch_config(model: str, revision: str, hint: str | None) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        hf_hub_download(model, "config.json", revision=revision, cache_dir=hub_cache())
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MissingWeights(
            f"model {model!r} is neither a local folder nor available on the hub ({type(error).__name__})",
            "check the id, the revision and the network; or "
            + (hint or "set model to a folder with a transformers model"),
        ) from error


def pick_device(device: str) -> torch.device:
    """Return the torch device for a name.

    Args:
        device: ``auto`` (CUDA if available, otherwise the CPU), ``cpu``, ``cuda`` or ``cuda:<n>``.

    Raises:
        ParamsError: If this machine has no such device.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ParamsError(f"unknown device {device!r}", "use auto, cpu, cuda or cuda:<n>") from error
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ParamsError(f"this machine has no device {device!r}", "set the device to auto or cpu")
    return picked


def best_precision(device: str) -> Precision:
    """Return the fastest precision that a device has instructions for: bf16, else fp16 (older CUDA), else fp32."""
    import torch

    from ecmf_pipeline.runner.machine import has_bf16_instructions

    picked = pick_device(device)
    if picked.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(picked) >= (8, 0) else "fp16"
    return "bf16" if picked.type == "cpu" and has_bf16_instructions() else "fp32"


class BaseEncoderConfig(Config):
    """Params that all encoders share.

    Attributes:
        batch_size: Items (frames, crops, clips or texts) in one forward pass; does not change the numbers.
    """

    modalities: ClassVar[frozenset[Modality]]
    """The modalities that the encoder supports."""
    recipe: ClassVar[int] = 1
    """Increased by one with every code change that changes the numbers."""
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size"})
    """Fields that do not change the numbers, or that the settings contain in another form, for example as a hash."""
    uses_torch: ClassVar[bool] = True
    """Whether it runs on ``extract.device``."""
    computed_by: ClassVar[frozenset[str]] = frozenset({"torch"})
    """Packages whose version may change the numbers."""
    dim: ClassVar[int | None] = None
    """D, the width of a feature row, if it is the same for all params; see `known_dim`."""

    batch_size: int = Field(16, gt=0)

    def libraries(self) -> frozenset[str]:
        """Return the packages whose versions are recorded with the features, except numpy."""
        return self.computed_by

    @property
    def text_columns(self) -> tuple[TextColumn, ...]:
        """The transcripts that it reads, if any. A clip that lacks one of them has no text features."""
        return DEFAULT_TEXT_COLUMNS

    @property
    def known_languages(self) -> frozenset[str] | None:
        """The languages of texts that it can encode; None for every language, or if they are unknown."""
        return None

    def named(self, name: str) -> Self:  # noqa: ARG002 - computed features do not depend on the name of the entry
        """Return these params as those of the entry ``name`` under ``encoders``."""
        return self

    def resolved(self, device: str) -> Self:  # noqa: ARG002 - for subclasses with settings that depend on the device
        """Return a copy in which every setting that depends on the device has its final value.

        Args:
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        """
        return self

    def half_types(self) -> frozenset[str]:
        """Return the half-precision types of its matrix multiplications, ``bf16`` or ``fp16``, if any."""
        return frozenset()

    def known_dim(self) -> int | None:
        """Return D, the width of a feature row; None if it is unknown before the encoder is loaded."""
        return self.dim

    def settings(self, *, weights_required: bool = True) -> dict[str, Any]:
        """Return all settings that change the numbers, with the hashes of the weights, as plain JSON values.

        These are all fields except `not_in_settings`.

        Args:
            weights_required: Whether the weights must be on this machine. If not, what depends on missing weights is
                `Unknown`.

        Raises:
            MissingWeights: If weights are missing and required.
            ModelError: If embedded weights were altered.
        """
        fields = self.model_dump(mode="json", exclude=set(self.not_in_settings))
        weights = self.weights_settings(weights_required=weights_required)
        return {**fields, "recipe": self.recipe, "dtype": "float32", "weights": weights}

    def weights_settings(self, *, weights_required: bool = True) -> dict[str, Any]:  # noqa: ARG002 - for subclasses
        """Return the identity of the weights; see `settings`."""
        return {}

    def origin(self) -> dict[str, Any]:
        """Return the name of the model for provenance, as plain JSON values.

        It is the same on every machine and contains no local path.
        """
        return {"model": str(getattr(self, "type", type(self).__name__))}


class TransformersConfig(BaseEncoderConfig):
    """Params that all transformers models share.

    Attributes:
        model: A local folder, or an id on the model hub. Code that comes with a model is never executed.
        revision: Commit, branch or tag on the hub. Set a commit: features of a branch depend on when it was fetched.
            Once fetched, a branch stays at the commit in the local cache. Weights that exist only as pickles are
            refused if they hold more than tensors.
        precision: Type of matrix multiplications; norms, sums and the stored features keep their type. Half types are
            about twice as fast if the device has instructions for them. ``auto`` is bf16 on CUDA from compute
            capability 8 and on CPUs with bf16 instructions, fp16 on older CUDA, else fp32. Features computed on
            different devices may then have different fingerprints.
    """

    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "model", "revision"})
    computed_by: ClassVar[frozenset[str]] = frozenset({"torch", "transformers"})

    model: str = Field(min_length=1)
    revision: str = "main"
    precision: Precision = "fp32"

    def resolved(self, device: str) -> Self:
        """Return a copy in which ``precision: auto`` has its final value; see `BaseEncoderConfig.resolved`."""
        if self.precision != "auto":
            return self
        return self.model_copy(update={"precision": best_precision(device)})

    def half_types(self) -> frozenset[str]:
        """Return its precision, unless that is fp32."""
        return frozenset({self.precision}) - {"fp32"}

    def source(self) -> ModelSource:
        """Return the location of the model. `settings` hashes the same files that the encoder loads.

        Raises:
            ModelError: If it cannot be found.
        """
        return locate_model(self.model, self.revision)

    def known_dim(self) -> int | None:
        """Return the hidden size from the config of the model; None if the config is not available or lacks it."""
        values = read_model_config(self.model, self.revision)
        tower = values.get("vision_config", values)  # models with two towers have one config for each
        width = tower.get("hidden_size") or tower.get("d_model")
        return width if isinstance(width, int) else None

    def weights_settings(self, *, weights_required: bool = True) -> dict[str, Any]:
        """Return the commit on the hub, or the SHA-256 of each file of the folder."""
        try:
            return self.source().settings()
        except MissingWeights as error:
            if weights_required:
                raise
            return settings_without_weights(self.model, self.revision, error.message)

    def origin(self) -> dict[str, Any]:
        """Return the id on the hub, the revision and its commit; for a folder, its name."""
        source = self.source()
        if source.commit is None:
            return {"model": Path(self.model).name}
        return {"model": self.model, "revision": self.revision, "commit": source.commit}
