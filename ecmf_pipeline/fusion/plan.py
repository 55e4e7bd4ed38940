"""Training rows, validation rows, settings and seeds of each model of an ensemble.

The settings can be tuned within the training part of each fold, by scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from ecmf_pipeline.core.arrays import assign_folds, group_indices, validation_rows
from ecmf_pipeline.core.errors import ParamsError, TooFewClips
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import Inputs
from ecmf_pipeline.fusion.member import Examples, MemberTraining
from ecmf_pipeline.fusion.model import FusionModel, build_model
from ecmf_pipeline.fusion.prediction import Member, predict_with_model

NO_TRAINING = -2
"""Fold of a row that no model is trained on."""

SEARCH_FOLD = 1_000_003
"""Fold number that separates the seeds of the search from those of the folds."""


@dataclass(frozen=True)
class Settings:
    """The settings that may differ between folds: model shape and training."""

    fusion: FusionConfig
    training: TrainingConfig


@dataclass(frozen=True)
class Plan:
    """The data and settings that all models of an ensemble share.

    Attributes:
        examples: All n rows, on the device.
        classes: Class indices, (n,).
        groups: Speaker or dialogue of each row, or None.
        folds: The fold of each row, (n,), or `NO_TRAINING`.
        dims: D of each modality.
        n_classes: C.
        fusion: Shape of the models.
        training: Training settings.
    """

    examples: Examples
    classes: NDArray[np.int64]
    groups: Sequence[str] | None
    folds: NDArray[np.int64]
    dims: dict[str, int]
    n_classes: int
    fusion: FusionConfig
    training: TrainingConfig

    def train(self, fold: int, repeat: int, settings: Settings, *, optimistic: bool = False) -> Member:
        """Train one model on the rows outside its fold.

        Args:
            fold: The fold.
            repeat: Index of the model within the fold.
            settings: Shape and training of the model.
            optimistic: Whether the rows of the fold itself are the validation rows.
        """
        rows = self.training_rows(fold)
        held_out = np.flatnonzero(self.folds == fold)
        if optimistic and self._can_predict(rows, held_out, settings.fusion):
            return self.train_on(rows, held_out, (fold, repeat), settings, select_by_f1=True)
        is_validation = validation_rows(
            self.classes[rows],
            self.groups_of(rows),
            self.training.validation_share,
            part=repeat,
            rng=np.random.default_rng([self.training.seed, fold]),  # the same parts for all repeats of a fold
        )
        return self.train_on(rows[~is_validation], rows[is_validation], (fold, repeat), settings)

    def train_on(
        self,
        training: NDArray[np.int64],
        validation: NDArray[np.int64],
        fold_and_repeat: tuple[int, int],
        settings: Settings,
        *,
        select_by_f1: bool = False,
    ) -> Member:
        """Train one model on the given rows.

        If no validation row has a modality of the training rows, all rows are split again, by label. This happens if a
        held-out group is the only one with a modality.

        Args:
            training: Training rows.
            validation: Validation rows.
            fold_and_repeat: Fold and repeat of the model, which also seed it.
            settings: Shape and training of the model.
            select_by_f1: See `MemberTraining`.

        Raises:
            TooFewClips: If no split leaves such a validation row.
        """
        fold, repeat = fold_and_repeat
        if not select_by_f1 and not self._can_predict(training, validation, settings.fusion):
            training, validation = self._split_by_label(training, validation, fold_and_repeat, settings.fusion)
        device = self.examples.labels.device
        seeds = np.random.SeedSequence([self.training.seed, *fold_and_repeat]).generate_state(3).tolist()
        # Initial weights and dropout use torch's global generators: fork them to leave the caller's state unchanged.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seeds[0])
            model = build_model(settings.fusion, self.dims, self.n_classes).to(device)
            training_examples = self.examples[torch.from_numpy(training).to(device)]
            model.fit_standardisers(training_examples.inputs.features, training_examples.inputs.present)
            validation_examples = self.examples[torch.from_numpy(validation).to(device)]
            can_predict = (validation_examples.inputs.present & model.seen).any(dim=1)
            validation_examples = validation_examples[can_predict.nonzero().squeeze(1)]
            fit = MemberTraining(
                model=model,
                training=_standardise(model, training_examples),
                validation=_standardise(model, validation_examples),
                config=settings.training,
                generator=torch.Generator().manual_seed(seeds[1]),
                rng=np.random.default_rng(seeds[2]),
                select_by_f1=select_by_f1,
            ).run()
        return Member(model.eval(), fold, repeat, fit.epoch, fit.loss, settings.training, fit.curve)

    def training_rows(self, fold: int) -> NDArray[np.int64]:
        """Return the rows that models of a fold may be trained on.

        Raises:
            TooFewClips: If they have fewer than two classes.
        """
        rows = np.flatnonzero((self.folds != fold) & (self.folds != NO_TRAINING))
        if len(np.unique(self.classes[rows])) < 2:
            raise TooFewClips(
                f"the {len(rows)} training clips outside fold {fold} have fewer than two classes",
                "label more clips, or clips of more speakers",
            )
        return rows

    def _can_predict(self, training: NDArray[np.int64], validation: NDArray[np.int64], fusion: FusionConfig) -> bool:
        """Return whether a model of the training rows can predict at least one validation row."""
        present = self.examples.inputs.present.cpu().numpy()  # (n, M)
        used = np.array([fusion.single in (None, name) for name in self.dims])  # (M,)
        return bool((present[validation] & used & present[training].any(axis=0, keepdims=True)).any())

    def _split_by_label(
        self,
        training: NDArray[np.int64],
        validation: NDArray[np.int64],
        fold_and_repeat: tuple[int, int],
        fusion: FusionConfig,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Split all rows again into training and validation rows that share a modality."""
        (fold, repeat), rows = fold_and_repeat, np.union1d(training, validation)
        share = self.training.validation_share
        for part in range(max(2, round(1 / share))):
            rng = np.random.default_rng([self.training.seed, fold])
            is_validation = validation_rows(self.classes[rows], None, share, part=repeat + part, rng=rng)
            if self._can_predict(rows[~is_validation], rows[is_validation], fusion):
                return rows[~is_validation], rows[is_validation]
        if fusion.single or fusion.kind == "mean_probs":
            return training, validation  # only single branches are trained, each if it has rows
        raise TooFewClips(
            f"no split of {len(rows)} training clips gives validation clips with a modality of the others",
            "extract a modality that more clips have, or label more clips",
        )

    def groups_of(self, rows: NDArray[np.int64]) -> list[str] | None:
        """Return the groups of some rows, or None."""
        return None if self.groups is None else [self.groups[row] for row in rows.tolist()]


def _standardise(model: FusionModel, examples: Examples) -> Examples:
    """Standardise the features once for all epochs."""
    features = model.standardise(examples.inputs.features, examples.inputs.present)
    return Examples(Inputs(features, examples.inputs.present), examples.labels, examples.weights)


def select_settings(plan: Plan, fold: int) -> Settings:
    """Return the settings for the models of a fold: the configured ones, or the best of a search by inner folds.

    The fold itself is not used: its score stays unbiased.

    Raises:
        ParamsError: If a width of the search is not a multiple of the number of heads.
    """
    training = plan.training
    configured = Settings(plan.fusion, training)
    if not training.search.trials:
        return configured
    if widths := training.search.indivisible_widths(plan.fusion.heads):
        raise ParamsError(
            f"search.hidden: {', '.join(map(str, widths))} must be multiples of fusion.heads ({plan.fusion.heads})",
            "change search.hidden or fusion.heads",
        )
    from sklearn.model_selection import PredefinedSplit, RandomizedSearchCV

    rows = plan.training_rows(fold)
    rng = np.random.default_rng([training.seed, fold, SEARCH_FOLD])
    inner = assign_folds(
        plan.classes[rows], _groups_for_inner_folds(plan.groups_of(rows)), training.search.folds, rng=rng
    )
    grid = {name: list(getattr(training.search, name)) for name in FusionEstimator.SEARCHED}
    search = RandomizedSearchCV(
        FusionEstimator(_SharedPlan(plan)),
        grid,
        n_iter=min(training.search.trials, math.prod(map(len, grid.values()))),
        cv=PredefinedSplit(inner),
        scoring="f1_weighted",
        refit=False,
        random_state=int(rng.integers(2**31)),
        error_score="raise",
    )
    search.fit(rows[:, None], plan.classes[rows])
    return FusionEstimator(_SharedPlan(plan), **search.best_params_).settings()


def _groups_for_inner_folds(groups: Sequence[str] | None) -> Sequence[str] | None:
    """Return the groups if inner folds can be made of them; None if there is only one group.

    With two groups in all, one is left if the other is held out. Clips are then split by label, which favours settings
    that overfit speakers; the evaluated fold is still not used.
    """
    indices = group_indices(groups)
    return None if indices is None or len(np.unique(indices)) < 2 else groups


class _SharedPlan:
    """A plan that scikit-learn's `clone` does not copy, which would copy all features."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __deepcopy__(self, _memo: Any) -> _SharedPlan:
        return self


class FusionEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fusion model as a scikit-learn classifier; X are row numbers of the plan, (n, 1)."""

    SEARCHED = ("hidden", "layers", "dropout", "learning_rate", "weight_decay")

    def __init__(
        self,
        shared: _SharedPlan,
        hidden: int | None = None,
        layers: int | None = None,
        dropout: float | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
    ) -> None:
        self.shared = shared
        self.hidden = hidden
        self.layers = layers
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay

    def settings(self) -> Settings:
        """Return the configured settings, updated by the parameters of the estimator."""
        updates = {name: getattr(self, name) for name in self.SEARCHED if getattr(self, name) is not None}
        plan = self.shared.plan
        fusion = {name: value for name, value in updates.items() if name in type(plan.fusion).model_fields}
        training = {name: value for name, value in updates.items() if name not in fusion}
        # Constructed, not copied with an update, to validate the drawn values.
        return Settings(
            type(plan.fusion)(**(plan.fusion.model_dump() | fusion)),
            type(plan.training)(**(plan.training.model_dump() | training)),
        )

    def fit(self, numbers: NDArray[np.int64], labels: NDArray[np.int64]) -> FusionEstimator:
        """Train one model on rows of the plan; some of them become validation rows."""
        plan, rows = self.shared.plan, numbers[:, 0]
        is_validation = validation_rows(
            labels,
            plan.groups_of(rows),
            plan.training.validation_share,
            part=0,
            rng=np.random.default_rng(plan.training.seed),
        )
        self.classes_ = np.arange(plan.n_classes)
        self.member_ = plan.train_on(rows[~is_validation], rows[is_validation], (SEARCH_FOLD, 0), self.settings())
        return self

    def predict(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the most likely class of rows of the plan; -1 if the model cannot predict a row."""
        inputs = self.shared.plan.examples.inputs
        rows = torch.from_numpy(numbers[:, 0])
        usable = (inputs.present[rows] & self.member_.model.seen).any(dim=1).cpu().numpy()
        classes = np.full(len(numbers), -1, dtype=np.int64)
        outputs = predict_with_model(self.member_.model, inputs, rows[torch.from_numpy(usable)])
        classes[usable] = outputs.probs.argmax(axis=1)
        return classes
