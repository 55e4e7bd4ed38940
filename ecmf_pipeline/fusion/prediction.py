"""A trained ensemble and its predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ecmf_pipeline.core.arrays import ShortRepr
from ecmf_pipeline.core.config import PoolOrFrames
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.extraction.features import FeatureOrigin
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.ensemble_files import TRAIN_COMMAND, SavedModality, read_files, write_files
from ecmf_pipeline.fusion.folds import ClipFolds
from ecmf_pipeline.fusion.inputs import Inputs, LabelType, decode_labels, read_inputs, read_mask
from ecmf_pipeline.fusion.trained import CHUNK, Member, Outputs, path_log_probs, predict_with_model, standardise

ALL_MEMBERS = -1
"""Key of the temperature for clips that no fold held out."""

SINGLE_MODELS = "single_modalities"
"""Folder of the models of single modalities, if the fusion has no such branches; see `Ensemble.has_single_models`."""


@dataclass(frozen=True, slots=True, repr=False)
class Prediction(ShortRepr):
    """Predictions of an ensemble for n clips.

    Attributes:
        probs: Probability of each label, (n, C); a row of NaN if a clip has no usable modality.
        modality_weights: Share of each modality, (n, M); a row of NaN if a clip has no usable modality.
        branch_probs: Probability of each label by each modality alone, (n, M, C): the branches of the models. A row of
            NaN if a clip lacks the modality, or the models have no branches.
        label_names: The labels, in the order of ``probs``.
        label_type: Type of the training labels.
    """

    probs: NDArray[np.float32]
    modality_weights: NDArray[np.float32]
    branch_probs: NDArray[np.float32]
    label_names: tuple[str, ...]
    label_type: LabelType = "name"

    @property
    def classes(self) -> NDArray[np.int64]:
        """Index of the most likely label, (n,); -1 without a prediction."""
        return _most_likely(self.probs)

    @property
    def branch_classes(self) -> NDArray[np.int64]:
        """Index of the most likely label by each modality alone, (n, M); -1 without a prediction."""
        return _most_likely(self.branch_probs)

    @property
    def predictions(self) -> NDArray[Any]:
        """The most likely label in the type of the training labels, (n,); -1 or "" without a prediction."""
        return decode_labels(self.classes, self.label_names, self.label_type)


def _most_likely(probs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the most likely class of probabilities (..., C); -1 in a row of NaN."""
    return np.where(np.isnan(probs[..., 0]), -1, probs.argmax(axis=-1))


@dataclass(frozen=True, repr=False)
class Ensemble(ShortRepr):
    """Models of one kind, for K folds and S seeds, and the fold of each training clip.

    Attributes:
        members: The models.
        dims: D of each modality, in the order of `Prediction.modality_weights`.
        label_names: The labels, in the order of `Prediction.probs`.
        folds: For each clip of the corpus, the fold that held out the clip or its group, and whether it was trained on.
        fusion: Shape of the models.
        training: Training settings.
        temperatures: For each fold, and under -1 for all other clips, the divisor of the log-probabilities.
        missing_factors: By modality, factors of the temperatures of clips without it; keys as of ``temperatures``.
        uniform_shares: Shares of a uniform distribution that are mixed in afterwards; keys as of ``temperatures``.
        branch_temperatures: Temperatures of each modality alone.
        pool: How the rows of a clip were pooled for training (``train.pool``); "" if unknown.
        labels_sha256: SHA-256 of the file of training labels (``refined.csv``); "" if unknown.
        label_type: Type of the training labels and of `Prediction.predictions`.
        origins: Origin of the features of each modality; unknown ones are left out.
    """

    members: tuple[Member, ...]
    dims: dict[str, int]
    label_names: tuple[str, ...]
    folds: ClipFolds
    fusion: FusionConfig
    training: TrainingConfig
    temperatures: Mapping[int, float] = field(default_factory=dict)
    missing_factors: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    uniform_shares: Mapping[int, float] = field(default_factory=dict)
    branch_temperatures: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    pool: PoolOrFrames | Literal[""] = ""
    labels_sha256: str = ""
    label_type: LabelType = "name"
    origins: Mapping[str, FeatureOrigin] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return tuple(self.dims)

    @property
    def has_single_models(self) -> bool:
        """Whether the branches are the models of the single modalities: trained alone, and not changed afterwards."""
        staged = self.training.staged and not self.training.joint_learning_rate
        return self.fusion.kind == "mean_probs" or (self.fusion.kind == "ecmf" and staged)

    @property
    def _train_command(self) -> str:
        """The shell command that trains these models again."""
        return f"{TRAIN_COMMAND} --labels refined" if self.labels_sha256 else TRAIN_COMMAND

    def held_out(self, clip_ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the fold that held out each clip or its group, (n,); -1 for clips without a fold."""
        return self.folds.of_clips(clip_ids)

    def trained_on(self, clip_ids: Iterable[str]) -> NDArray[np.bool_]:
        """Return whether each clip is in the training set, (n,)."""
        return self.folds.trained_on(clip_ids)

    def check_label_names(self, labels: Sequence[str]) -> None:
        """Raise if the labels of a corpus, or their order, differ from those of the models.

        Raises:
            MissingInput: If they differ.
        """
        if self.label_names != tuple(labels):
            raise MissingInput(
                f"the saved models have the labels {', '.join(self.label_names)}, the corpus has {', '.join(labels)}",
                "train again with the labels of the corpus",
                command=self._train_command,
            )

    def check_pool(self, pool: PoolOrFrames) -> None:
        """Raise if rows are pooled differently from those of the training.

        Raises:
            MissingInput: If they are.
        """
        if self.pool not in {pool, ""}:
            raise MissingInput(
                f"the saved models were trained with train.pool {self.pool}, but it is {pool} now",
                "train again with the current pool",
                command=self._train_command,
            )

    def check_modalities(self, modalities: Iterable[str]) -> None:
        """Raise if a modality of the training has no features.

        Raises:
            MissingInput: If one is not among ``modalities``.
        """
        available = set(modalities)
        if missing := [name for name in self.modalities if name not in available]:
            raise MissingInput(
                f"the saved models use {', '.join(missing)}, but these features do not exist",
                "extract the features, or train again without them",
                command=self._train_command,
            )

    def predict(
        self,
        features: Mapping[str, ArrayLike],
        held_out: ArrayLike | None = None,
        masks: Mapping[str, ArrayLike] | None = None,
    ) -> Prediction:
        """Average the predictions of the members for each clip.

        Args:
            features: For each modality, (n, D), or (n, T, D) at frame level; a missing clip or frame is a row of NaN.
            held_out: The fold that held out each clip, (n,), as returned by `held_out`. Only the members of that fold,
                which were not trained on the clip, predict it. -1, or None for all clips: the clip was not trained on,
                and all members predict it.
            masks: For each modality, whether a clip has it, (n,); in addition to rows of NaN.

        Raises:
            InputError: If modalities or widths differ from those of the training.
            ValueError: If arrays differ in length, or a fold is unknown.
        """
        return self.predict_several(features, [held_out], masks)[0]

    def predict_several(
        self,
        features: Mapping[str, ArrayLike],
        held_out: Sequence[ArrayLike | None],
        masks: Mapping[str, ArrayLike] | None = None,
    ) -> list[Prediction]:
        """Predict each clip by several sets of members, and run each member once; see `predict`."""
        arrays = {name: np.atleast_1d(values) for name, values in features.items()}
        clips = max((len(values) for values in arrays.values()), default=0)
        fold_sets = [np.full(clips, ALL_MEMBERS) if folds is None else np.asarray(folds) for folds in held_out]
        known = {member.fold for member in self.members} | {ALL_MEMBERS}
        for folds in fold_sets:
            if folds.shape != (clips,) or not set(folds.tolist()) <= known:
                raise ValueError(f"held_out must be one of the folds {sorted(known)} for each of {clips} clips")
        mask_arrays = {name: read_mask(name, mask, clips) for name, mask in (masks or {}).items()}
        parts: list[list[Outputs]] = []
        for start in range(0, max(clips, 1), CHUNK):
            rows = slice(start, start + CHUNK)
            inputs = read_inputs(
                {name: values[rows] for name, values in arrays.items()},
                {name: values[rows] for name, values in mask_arrays.items()},
                dims=self.dims,
            )
            parts.append(self._mean_outputs(inputs, [folds[rows] for folds in fold_sets]))
        return [
            self._calibrate(Outputs(*map(np.concatenate, zip(*means, strict=True))), folds)
            for means, folds in zip(zip(*parts, strict=True), fold_sets, strict=True)
        ]

    def _calibrate(self, means: Outputs, folds: NDArray[np.int64]) -> Prediction:
        def of_clips(by_fold: Mapping[int, float], default: float = 1.0) -> NDArray[np.float64]:
            return np.array([by_fold.get(fold, default) for fold in folds.tolist()])

        temperatures = of_clips(self.temperatures)
        for name, weights in zip(self.dims, means.weights.T, strict=True):
            temperatures *= np.where(weights == 0, of_clips(self.missing_factors.get(name, {})), 1.0)
        uniform, n_classes = of_clips(self.uniform_shares, 0.0)[:, None], len(self.label_names)
        branches = [
            apply_temperatures(means.branch_probs[:, index], of_clips(self.branch_temperatures.get(name, {})))
            for index, name in enumerate(self.dims)
        ]
        return Prediction(
            ((1 - uniform) * apply_temperatures(means.probs, temperatures) + uniform / n_classes).astype(np.float32),
            means.weights.astype(np.float32),
            np.stack(branches, axis=1).astype(np.float32),
            self.label_names,
            self.label_type,
        )

    def _mean_outputs(self, inputs: Inputs, fold_sets: Sequence[NDArray[np.int64]]) -> list[Outputs]:
        """Return the mean outputs of the members of each set of folds, (r,) each; NaN without a member for a row."""
        shape = (len(fold_sets), len(inputs), len(self.dims), len(self.label_names))
        totals = Outputs(np.zeros((*shape[:2], shape[3])), np.zeros(shape[:3]), np.zeros(shape))
        counts, branch_counts = np.zeros(shape[:2]), np.zeros(shape[:3])
        present = inputs.present.numpy()
        for fold, members in groupby(self.members, key=attrgetter("fold")):
            asked = [((folds == fold) | (folds == ALL_MEMBERS)) & present.any(1) for folds in fold_sets]
            rows = np.flatnonzero(np.logical_or.reduce(asked))
            if not len(rows):
                continue
            chosen = inputs if len(rows) == len(inputs) else inputs[torch.from_numpy(rows)]
            path: Tensor | None = None
            for member in members:
                standard = standardise(member.model, chosen)
                if member.path is not None and path is None:  # the members of a fold share it
                    path = path_log_probs(member.path, chosen)
                known = present[rows] & member.model.seen.cpu().numpy()
                usable = np.flatnonzero(known.any(1))
                outputs = predict_with_model(member.model, standard, torch.from_numpy(usable), member.shares, path)
                for number, is_asked in enumerate(asked):
                    used = is_asked[rows[usable]]
                    at = rows[usable[used]]
                    for total, values in zip(totals, outputs, strict=True):
                        total[number, at] += values[used]
                    counts[number, at] += 1
                    branch_counts[number, at] += known[usable[used]]
        with np.errstate(invalid="ignore", divide="ignore"):
            return [
                Outputs(probs / count[:, None], weights / count[:, None], branches / branch_count[:, :, None])
                for probs, weights, branches, count, branch_count in zip(*totals, counts, branch_counts, strict=True)
            ]

    def save(self, folder: str | Path) -> None:
        """Write the weights (safetensors), folds (Arrow) and config (JSON); equal ensembles give equal bytes."""
        write_files(
            Path(folder),
            self.members,
            self.folds,
            modalities=[
                SavedModality(name=name, dim=dim, origin=self.origins.get(name)) for name, dim in self.dims.items()
            ],
            label_names=list(self.label_names),
            fusion=self.fusion,
            training=self.training,
            temperatures=dict(self.temperatures),
            missing_factors={name: dict(values) for name, values in self.missing_factors.items()},
            uniform_shares=dict(self.uniform_shares),
            branch_temperatures={name: dict(values) for name, values in self.branch_temperatures.items()},
            pool=self.pool,
            labels_sha256=self.labels_sha256,
            label_type=self.label_type,
        )

    @classmethod
    def load(cls, folder: str | Path) -> Ensemble:
        """Read an ensemble written by `save`.

        Raises:
            MissingInput: If there is no saved ensemble.
            InputError: If its config is not JSON.
            ModelError: If it is damaged in another way, or has another version.
        """
        saved, members, folds = read_files(Path(folder))
        return cls(
            members=tuple(members),
            dims={modality.name: modality.dim for modality in saved.modalities},
            label_names=tuple(saved.label_names),
            folds=folds,
            fusion=saved.fusion,
            training=saved.training,
            temperatures=saved.temperatures,
            missing_factors=saved.missing_factors,
            uniform_shares=saved.uniform_shares,
            branch_temperatures=saved.branch_temperatures,
            pool=saved.pool,
            labels_sha256=saved.labels_sha256,
            label_type=saved.label_type,
            origins={modality.name: modality.origin for modality in saved.modalities if modality.origin},
        )


def apply_temperatures(probs: NDArray[np.float64], temperatures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the temperature of each clip, (n,), to probabilities (n, C); rows of NaN stay NaN."""
    with np.errstate(divide="ignore"):
        scaled = np.log(probs) / temperatures[:, None]
    unnormalised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    calibrated: NDArray[np.float64] = unnormalised / unnormalised.sum(axis=1, keepdims=True)
    return calibrated
