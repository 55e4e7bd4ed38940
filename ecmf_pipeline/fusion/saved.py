"""How an ensemble is kept on disk (weights as safetensors, all else as JSON), with its temperatures of calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from ecmf_pipeline.core.config import Config, PoolOrFrames
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import read_json, sha256_file, write_atomic
from ecmf_pipeline.extraction.features import FeatureOrigin
from ecmf_pipeline.fusion.baselines import build
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import LabelType
from ecmf_pipeline.fusion.model import FusionModel

LEAST_CLIPS = 20
"""With fewer, a temperature would be a guess: probabilities are left as they are."""

BOUNDS = (0.2, 5.0)

PRIOR = 2.0
"""Pull of the log-temperature towards 0, in clips (a standard deviation of 0.5): where a few dozen happen to be all
right, they are no proof of certainty."""

EVERYONE = -1
"""The key of the temperature for clips that no fold held out."""


def held_out_temperatures(
    probs: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64], folds: NDArray[np.int64]
) -> dict[int, float]:
    """One temperature for each fold, fitted on the clips of the other folds; and one for all other clips.

    So the fit never looks at a clip's own label. What it looks at, the other folds' probabilities, is of models that
    may have learned from that label: through the temperature it moves how certain the clip's probabilities are a
    little, and never which label is likeliest.

    Args:
        probs: Out-of-fold probabilities, (n, C); rows of NaN do not count.
        labels: Class indices, (n,).
        weights: How much each clip counts, (n,).
        folds: The fold of each clip, (n,).
    """
    known = ~np.isnan(probs[:, 0])
    chosen = {EVERYONE: known} | {int(fold): known & (folds != fold) for fold in np.unique(folds)}
    return {fold: temperature(probs[rows], labels[rows], weights[rows]) for fold, rows in chosen.items()}


def temperature(probs: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    """The temperature of the lowest weighted negative log-likelihood, within `BOUNDS`; 1.0 for too few clips."""
    from scipy.optimize import minimize_scalar

    if len(probs) < LEAST_CLIPS:
        return 1.0
    logs = np.log(np.maximum(probs.astype(np.float64), 1e-12))  # (n, C)

    def loss(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        likelihood = scaled[np.arange(len(labels)), labels] - np.logaddexp.reduce(scaled, axis=1)
        return PRIOR / len(labels) * log_temperature**2 - float(np.average(likelihood, weights=weights))

    found = minimize_scalar(loss, bounds=tuple(np.log(BOUNDS)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def cooled(probs: NDArray[np.float64], temperatures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (n, C) at the temperature of each clip, (n,); rows of NaN stay so."""
    with np.errstate(divide="ignore"):
        scaled = np.log(probs) / temperatures[:, None]
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    cool: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return cool


WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "config.json"
RETRAIN = "run `ecmf-pipe train` again"


@dataclass(frozen=True, slots=True)
class Member:
    """One trained model of an ensemble.

    Attributes:
        model: The model, in eval mode.
        fold: The fold it never saw.
        repeat: Which of the fold's models it is.
        epochs: Passes over the training part, all modalities together, after which its validation loss was lowest.
        validation_loss: That loss; NaN where no clip was left to judge the model by.
        training: How it was trained; a search may have chosen other settings than the ensemble's.
    """

    model: FusionModel
    fold: int
    repeat: int
    epochs: int
    validation_loss: float
    training: TrainingConfig


class SavedModality(Config):
    """One modality, in order (JSON objects have none here: their keys are sorted)."""

    name: str
    dim: int = Field(gt=0)
    origin: FeatureOrigin | None = None


class SavedMember(Config):
    """What is kept of a `Member` beside its weights."""

    fold: int = Field(ge=0)
    repeat: int = Field(ge=0)
    epochs: int = Field(ge=0)
    validation_loss: float | None
    fusion: FusionConfig
    training: TrainingConfig

    @classmethod
    def of(cls, member: Member) -> SavedMember:
        """What is kept of one."""
        return cls(
            fold=member.fold,
            repeat=member.repeat,
            epochs=member.epochs,
            validation_loss=member.validation_loss if math.isfinite(member.validation_loss) else None,
            fusion=member.model.config,
            training=member.training,
        )


class SavedEnsemble(Config):
    """The content of ``config.json``."""

    format: Literal[2] = 2
    modalities: list[SavedModality] = Field(min_length=1)
    label_names: list[str] = Field(min_length=2)
    folds: dict[str, int]
    trained: list[str]
    fusion: FusionConfig
    training: TrainingConfig
    temperatures: dict[int, float]
    pool: PoolOrFrames | Literal[""] = ""
    labels_sha256: str = ""
    label_type: LabelType = "name"
    members: list[SavedMember] = Field(min_length=1)
    weights_sha256: str

    @property
    def dims(self) -> dict[str, int]:
        """D of each modality."""
        return {modality.name: modality.dim for modality in self.modalities}

    @property
    def origins(self) -> dict[str, FeatureOrigin]:
        """Where each modality's features came from; those of which nobody said so are left out."""
        return {modality.name: modality.origin for modality in self.modalities if modality.origin}


def save_members(path: Path, members: Sequence[Member]) -> None:
    """Write the weights of all members; the same weights give the same bytes."""
    from safetensors.torch import save

    state = {
        f"{index}.{name}": tensor.detach().cpu().contiguous()
        for index, member in enumerate(members)
        for name, tensor in member.model.state_dict().items()
    }
    write_atomic(path, save(state))


def read_saved(path: Path) -> SavedEnsemble:
    """The content of a ``config.json``.

    Raises:
        MissingInput: When there is no saved ensemble.
        InputError: When the file is not JSON.
        ModelError: When it is damaged in another way, or of another version.
    """
    try:
        return SavedEnsemble.model_validate(read_json(path, made_by="train"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "it"
        raise ModelError(f"{path}: {key}: {first['msg']}", RETRAIN) from error


def load_members(path: Path, saved: SavedEnsemble) -> Sequence[Member]:
    """The models that `save_members` wrote.

    Raises:
        ModelError: When the file is missing, damaged, or not the one that ``saved`` describes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not path.is_file() or sha256_file(path) != saved.weights_sha256:
        raise ModelError(f"{path} is missing or is not the file that {CONFIG_FILE} describes", RETRAIN)
    try:
        state = load(path.read_bytes())
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file ({error})", RETRAIN) from error
    members = []
    if {name.partition(".")[0] for name in state} != set(map(str, range(len(saved.members)))):
        raise ModelError(f"{path} holds other models than {CONFIG_FILE} describes", RETRAIN)
    for index, entry in enumerate(saved.members):
        own = {name.removeprefix(f"{index}."): t for name, t in state.items() if name.startswith(f"{index}.")}
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: they must cost no randomness
            model = build(entry.fusion, saved.dims, len(saved.label_names))
        try:
            model.load_state_dict(own)
        except RuntimeError as error:
            raise ModelError(
                f"{path}: member {index} has other tensors than {CONFIG_FILE} describes", RETRAIN
            ) from error
        loss = math.nan if entry.validation_loss is None else entry.validation_loss
        members.append(Member(model.eval(), entry.fold, entry.repeat, entry.epochs, loss, entry.training))
    return members
