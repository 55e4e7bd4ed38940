"""A trained ensemble: what it predicts, and how it is kept on disk (weights as safetensors, all else as JSON)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationError

from ecmf_pipeline.core.config import Config, PoolOrFrames
from ecmf_pipeline.core.errors import MissingInput, ModelError
from ecmf_pipeline.core.files import read_json, sha256_file, write_atomic, write_json
from ecmf_pipeline.extraction.features import FeatureOrigin
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import Inputs, LabelType, as_given, read_inputs, read_mask
from ecmf_pipeline.fusion.model import FusionModel, build

EVERYONE = -1
"""The key of the temperature for clips that no fold held out."""


WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "config.json"
RETRAIN = "run `ecmf-pipe train` again"

CHUNK = 512
"""Clips in one forward pass of a prediction: they fit a cache, and the size changes no result beyond rounding."""


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


@dataclass(frozen=True, slots=True)
class Prediction:
    """What an ensemble says of n clips.

    Attributes:
        probs: Probability of each label, (n, C); a row of NaN where a clip has no modality to judge by.
        modality_weights: Share of each modality, (n, M); NaN likewise.
        label_names: The labels, in the order of ``probs``.
        label_type: What the labels were that the models learned from.
    """

    probs: NDArray[np.float32]
    modality_weights: NDArray[np.float32]
    label_names: tuple[str, ...]
    label_type: LabelType = "name"

    @property
    def classes(self) -> NDArray[np.int64]:
        """Index of the likeliest label, (n,); -1 where there is no prediction."""
        missing = np.isnan(self.probs[:, 0])
        return np.where(missing, -1, self.probs.argmax(axis=1))

    @property
    def predictions(self) -> NDArray[Any]:
        """The likeliest label in the type of the labels that were learned from, (n,); -1 or "" where there is none."""
        return as_given(self.classes, self.label_names, self.label_type)


@dataclass(frozen=True)
class Ensemble:
    """K folds times S seeds of one model, and which training clip stood in which fold.

    Attributes:
        members: The models.
        dims: D of each modality, in the order of `Prediction.modality_weights`.
        label_names: The labels, in the order of `Prediction.probs`.
        folds: For each clip id, the fold that held it out (or its group, where it was not trained on); -1 for clips
            that every member may have seen.
        trained: Ids of the clips that were learned from, or stood in a fold to be.
        fusion: The shape of the models.
        training: How they were trained.
        temperatures: For each fold, and under -1 for all other clips, what log-probabilities are divided by.
        pool: How a clip's rows became what the models were shown (``train.pool``); "" where nobody said.
        labels_sha256: SHA-256 of the file of labels that was learned from (``refined.csv``); "" where nobody said.
        label_type: What the labels were that the models learned from; `Prediction.predictions` are of that type.
        origins: Where the features of each modality came from; modalities of which nobody said so are left out.
    """

    members: tuple[Member, ...]
    dims: dict[str, int]
    label_names: tuple[str, ...]
    folds: dict[str, int]
    trained: frozenset[str]
    fusion: FusionConfig
    training: TrainingConfig
    temperatures: Mapping[int, float] = field(default_factory=dict)
    pool: PoolOrFrames | Literal[""] = ""
    labels_sha256: str = ""
    label_type: LabelType = "name"
    origins: Mapping[str, FeatureOrigin] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return tuple(self.dims)

    def held_out(self, clip_ids: Iterable[str]) -> NDArray[np.int64]:
        """The fold that held out each clip or its group, (n,); -1 for clips that no fold is known of."""
        return np.array([self.folds.get(clip_id, -1) for clip_id in clip_ids], dtype=np.int64)

    def trained_on(self, clip_ids: Iterable[str]) -> NDArray[np.bool_]:
        """Whether each clip was of the training set, (n,)."""
        return np.array([clip_id in self.trained for clip_id in clip_ids], dtype=np.bool_)

    def refuse_other_labels(self, labels: Sequence[str]) -> None:
        """Refuse to judge a corpus of other labels, or of the same in another order.

        Raises:
            MissingInput: When they differ.
        """
        if self.label_names != tuple(labels):
            raise MissingInput(
                f"the saved models know the labels {', '.join(self.label_names)}; the corpus has others now", RETRAIN
            )

    def refuse_other_pool(self, pool: PoolOrFrames) -> None:
        """Refuse rows that are pooled otherwise than those that were learned from.

        Raises:
            MissingInput: When they are.
        """
        if self.pool not in {pool, ""}:
            raise MissingInput(f"the saved models were trained with train.pool {self.pool}; it is {pool} now", RETRAIN)

    def refuse_missing(self, modalities: Iterable[str]) -> None:
        """Refuse to judge without some of the modalities that were learned from.

        Raises:
            MissingInput: When one is not among ``modalities``.
        """
        known = set(modalities)
        if missing := [name for name in self.modalities if name not in known]:
            raise MissingInput(
                f"the saved models judge by {', '.join(missing)} too, of which there are no features now",
                f"{RETRAIN}, or `ecmf-pipe extract`",
            )

    def predict(
        self,
        features: Mapping[str, ArrayLike],
        held_out: ArrayLike | None = None,
        masks: Mapping[str, ArrayLike] | None = None,
    ) -> Prediction:
        """Average the members that may judge each clip.

        Args:
            features: For each modality, (n, D), or (n, T, D) at frame level; NaN where a clip, or a frame, is missing.
            held_out: The fold that held a clip out (see `held_out`), (n,): only the members of that fold, which never
                saw the clip, judge it. -1, or None for all: the clip was not trained on and every member judges.
            masks: For each modality, whether a clip has it, (n,); beside the rows of NaN.

        Raises:
            InputError: When modalities or widths differ from those of the training.
            ValueError: When arrays differ in length, or a fold is unknown.
        """
        arrays = {name: np.atleast_1d(values) for name, values in features.items()}
        clips = max((len(values) for values in arrays.values()), default=0)
        folds = np.full(clips, EVERYONE) if held_out is None else np.asarray(held_out)
        known = {member.fold for member in self.members} | {EVERYONE}
        if folds.shape != (clips,) or not set(folds.tolist()) <= known:
            raise ValueError(f"held_out must name, for each of {clips} clips, one of the folds {sorted(known)}")
        hidden = {name: read_mask(name, mask, clips) for name, mask in (masks or {}).items()}
        probs, weights = [], []
        for start in range(0, max(clips, 1), CHUNK):
            rows = slice(start, start + CHUNK)
            inputs = read_inputs(
                {name: values[rows] for name, values in arrays.items()},
                {name: values[rows] for name, values in hidden.items()},
                dims=self.dims,
            )
            both = self._judged(inputs, folds[rows])  # (r, C + M)
            parts = np.split(both, [len(self.label_names)], axis=1)
            temperatures = np.array([self.temperatures.get(fold, 1.0) for fold in folds[rows].tolist()])
            probs.append(cooled(parts[0], temperatures).astype(np.float32))
            weights.append(parts[1].astype(np.float32))
        return Prediction(np.concatenate(probs), np.concatenate(weights), self.label_names, self.label_type)

    def _judged(self, inputs: Inputs, folds: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean probabilities beside mean modality weights, (r, C + M); NaN where no member can judge."""
        total = np.zeros((len(inputs), len(self.label_names) + len(self.dims)))  # (r, C + M)
        judges = np.zeros(len(inputs))  # (r,)
        for member in self.members:
            rows = torch.from_numpy(np.flatnonzero((folds == member.fold) | (folds == EVERYONE)))
            rows = rows[(inputs.present[rows] & member.model.seen.cpu()).any(dim=1)]
            # NumPy takes a tensor of one element for a plain number: index with an array.
            total[rows.numpy()] += judge(member.model, inputs, rows)
            judges[rows.numpy()] += 1
        mean = np.full_like(total, np.nan)
        np.divide(total, judges[:, None], out=mean, where=judges[:, None] > 0)
        return mean

    def save(self, folder: str | Path) -> None:
        """Write the weights (safetensors) and the config (JSON); the same ensemble gives the same bytes."""
        from safetensors.torch import save

        folder = Path(folder)
        state = {
            f"{index}.{name}": tensor.detach().cpu().contiguous()
            for index, member in enumerate(self.members)
            for name, tensor in member.model.state_dict().items()
        }
        write_atomic(folder / WEIGHTS_FILE, save(state))
        saved = SavedEnsemble(
            modalities=[
                SavedModality(name=name, dim=dim, origin=self.origins.get(name)) for name, dim in self.dims.items()
            ],
            label_names=list(self.label_names),
            folds=self.folds,
            trained=sorted(self.trained),
            fusion=self.fusion,
            training=self.training,
            temperatures=dict(self.temperatures),
            pool=self.pool,
            labels_sha256=self.labels_sha256,
            label_type=self.label_type,
            members=[
                SavedMember(
                    fold=member.fold,
                    repeat=member.repeat,
                    epochs=member.epochs,
                    validation_loss=member.validation_loss if math.isfinite(member.validation_loss) else None,
                    fusion=member.model.config,
                    training=member.training,
                )
                for member in self.members
            ],
            weights_sha256=sha256_file(folder / WEIGHTS_FILE),
        )
        write_json(folder / CONFIG_FILE, saved.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: str | Path) -> Ensemble:
        """Read what `save` wrote.

        Raises:
            MissingInput: When there is no saved ensemble.
            InputError: When its config is not JSON.
            ModelError: When it is damaged in another way, or of another version.
        """
        path = Path(folder) / CONFIG_FILE
        try:
            saved = SavedEnsemble.model_validate(read_json(path, made_by="train"))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "it"
            raise ModelError(f"{path}: {key}: {first['msg']}", RETRAIN) from error
        dims = {modality.name: modality.dim for modality in saved.modalities}
        return cls(
            members=tuple(_load_members(Path(folder) / WEIGHTS_FILE, saved, dims)),
            dims=dims,
            label_names=tuple(saved.label_names),
            folds=saved.folds,
            trained=frozenset(saved.trained),
            fusion=saved.fusion,
            training=saved.training,
            temperatures=saved.temperatures,
            pool=saved.pool,
            labels_sha256=saved.labels_sha256,
            label_type=saved.label_type,
            origins={modality.name: modality.origin for modality in saved.modalities if modality.origin},
        )


@torch.inference_mode()
def judge(model: FusionModel, inputs: Inputs, rows: torch.Tensor) -> NDArray[np.float64]:
    """Probabilities beside modality weights of ``rows`` (in order, each once), (r, C + M), by one model."""
    device = model.seen.device
    judged = [np.zeros((0, model.n_classes + len(model.modalities)))]
    all_of_them = len(rows) == len(inputs)  # then nothing need be copied
    for start in range(0, len(rows), CHUNK):
        chunk = inputs[slice(start, start + CHUNK) if all_of_them else rows[start : start + CHUNK]]
        output = model([values.to(device) for values in chunk.features], chunk.present.to(device))
        both = torch.cat([output.logits.double().softmax(dim=1), output.weights.double()], dim=1)
        judged.append(both.cpu().numpy())
    return np.concatenate(judged)


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


def _load_members(path: Path, saved: SavedEnsemble, dims: dict[str, int]) -> list[Member]:
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
            model = build(entry.fusion, dims, len(saved.label_names))
        try:
            model.load_state_dict(own)
        except RuntimeError as error:
            raise ModelError(
                f"{path}: member {index} has other tensors than {CONFIG_FILE} describes", RETRAIN
            ) from error
        loss = math.nan if entry.validation_loss is None else entry.validation_loss
        members.append(Member(model.eval(), entry.fold, entry.repeat, entry.epochs, loss, entry.training))
    return members


def cooled(probs: NDArray[np.float64], temperatures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (n, C) at the temperature of each clip, (n,); rows of NaN stay so."""
    with np.errstate(divide="ignore"):
        scaled = np.log(probs) / temperatures[:, None]
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    cool: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return cool
