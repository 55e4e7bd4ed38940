"""The files of a saved ensemble: weights in safetensors, folds in Arrow, all else in JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, ValidationError
from torch import Tensor

from ecmf_pipeline.core.config import Config, PoolOrFrames
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import read_sealed_json, sha256_bytes, write_atomic, write_sealed_json
from ecmf_pipeline.extraction.features import FeatureOrigin
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.folds import ClipFolds
from ecmf_pipeline.fusion.inputs import LabelType
from ecmf_pipeline.fusion.kernel import KernelPath, Shares
from ecmf_pipeline.fusion.kinds import build_model
from ecmf_pipeline.fusion.model import FusionModel
from ecmf_pipeline.fusion.trained import Member

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "config.json"
FOLDS_FILE = "folds.arrow"
PATH = "path"
"""Prefix of the fold in the names of tensors of a kernel path."""

TRAIN_HINT = "train the models again"
TRAIN_COMMAND = "ecmf-pipe train"
"""Command that trains the models on given labels again."""


class SavedModality(Config):
    """One modality; a list of these keeps the order, because JSON objects are written with sorted keys."""

    name: str
    dim: int = Field(gt=0)
    origin: FeatureOrigin | None = None


class SavedMember(Config):
    """The fields of a `Member` except its weights."""

    fold: int = Field(ge=0)
    repeat: int = Field(ge=0)
    epochs: int = Field(ge=0)
    validation_loss: float | None
    fusion: FusionConfig
    training: TrainingConfig
    shares: tuple[NonNegativeFloat, NonNegativeFloat] | None = None

    @classmethod
    def of(cls, member: Member) -> Self:
        """Return the fields of a member."""
        return cls(
            fold=member.fold,
            repeat=member.repeat,
            epochs=member.epochs,
            validation_loss=member.validation_loss if math.isfinite(member.validation_loss) else None,
            fusion=member.model.config,
            training=member.training,
            shares=None if member.shares is None else (member.shares.own, member.shares.path),
        )

    def member(self, model: FusionModel, path: KernelPath | None) -> Member:
        """Return the member with its weights."""
        return Member(
            model,
            self.fold,
            self.repeat,
            self.epochs,
            math.nan if self.validation_loss is None else self.validation_loss,
            self.training,
            path=path if self.shares else None,
            shares=Shares(*self.shares) if self.shares else None,
        )


class SavedEnsemble(Config):
    """The content of ``config.json``."""

    format: Literal[5] = 5
    modalities: list[SavedModality] = Field(min_length=1)
    label_names: list[str] = Field(min_length=2)
    fusion: FusionConfig
    training: TrainingConfig
    temperatures: dict[int, PositiveFloat]
    missing_factors: dict[str, dict[int, PositiveFloat]] = Field(default_factory=dict)
    uniform_shares: dict[int, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    branch_temperatures: dict[str, dict[int, PositiveFloat]] = Field(default_factory=dict)
    pool: PoolOrFrames | Literal[""] = ""
    labels_sha256: str = ""
    label_type: LabelType = "name"
    members: list[SavedMember] = Field(min_length=1)
    weights_sha256: str
    folds_sha256: str


def write_files(folder: Path, members: Sequence[Member], folds: ClipFolds, **settings: Any) -> None:
    """Write the files of an ensemble; ``settings`` are the other fields of `SavedEnsemble`."""
    from safetensors.torch import save

    tensors = {
        f"{index}.{name}": tensor
        for index, member in enumerate(members)
        for name, tensor in member.model.state_dict().items()
    }
    for member in members:
        if member.path is not None:  # all models of a fold share it
            tensors |= {f"{PATH}{member.fold}.{name}": tensor for name, tensor in member.path.state().items()}
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    clips = folds.to_bytes()
    write_atomic(folder / WEIGHTS_FILE, weights)
    write_atomic(folder / FOLDS_FILE, clips)
    saved = SavedEnsemble(
        members=[SavedMember.of(member) for member in members],
        weights_sha256=sha256_bytes(weights),
        folds_sha256=sha256_bytes(clips),
        **settings,
    )
    write_sealed_json(folder / CONFIG_FILE, saved.model_dump(mode="json"))


def read_files(folder: Path) -> tuple[SavedEnsemble, list[Member], ClipFolds]:
    """Read the files of an ensemble.

    Raises:
        MissingInput: If there is no saved ensemble.
        InputError: If its config is not JSON.
        ModelError: If it is damaged in another way, or has another version.
    """
    path = folder / CONFIG_FILE
    try:
        saved = SavedEnsemble.model_validate(read_sealed_json(path, made_by="train", error=ModelError))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        location = f"{path}: {key}" if key else str(path)
        raise ModelError(f"{location}: {first['msg']}", TRAIN_HINT, command=TRAIN_COMMAND) from error
    members = _load_members(folder / WEIGHTS_FILE, saved)
    return saved, members, ClipFolds.from_bytes(_read_checked(folder / FOLDS_FILE, saved.folds_sha256))


def _read_checked(path: Path, sha256: str) -> bytes:
    """Return the content of a file beside the config, which has its SHA-256."""
    content = path.read_bytes() if path.is_file() else b""
    if sha256_bytes(content) != sha256:
        raise ModelError(f"{path} is missing or does not match {CONFIG_FILE}", TRAIN_HINT, command=TRAIN_COMMAND)
    return content


def _load_members(path: Path, saved: SavedEnsemble) -> list[Member]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = _read_checked(path, saved.weights_sha256)
    try:
        state = load(content)
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file ({error})", TRAIN_HINT, command=TRAIN_COMMAND) from error
    if wrong := [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]:
        raise ModelError(f"{path}: {wrong[0]} has values that are not finite", TRAIN_HINT, command=TRAIN_COMMAND)
    by_model: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        model, _, rest = name.partition(".")
        by_model.setdefault(model, {})[rest] = tensor
    with_path = {f"{PATH}{entry.fold}" for entry in saved.members if entry.shares}
    if set(by_model) != {*map(str, range(len(saved.members))), *with_path}:
        raise ModelError(f"the models in {path} do not match {CONFIG_FILE}", TRAIN_HINT, command=TRAIN_COMMAND)
    dims, n_classes = {modality.name: modality.dim for modality in saved.modalities}, len(saved.label_names)
    members = []
    try:
        paths = {name: KernelPath.of_state(by_model[name], sum(dims.values()), n_classes) for name in with_path}
        for index, entry in enumerate(saved.members):
            with torch.random.fork_rng(devices=[]):  # initial weights are overwritten
                model = build_model(entry.fusion, dims, n_classes)
            model.load_state_dict(by_model[str(index)])
            members.append(entry.member(model.eval(), paths.get(f"{PATH}{entry.fold}")))
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path}: the tensors do not match {CONFIG_FILE} ({error})", TRAIN_HINT, command=TRAIN_COMMAND
        ) from error
    return members
