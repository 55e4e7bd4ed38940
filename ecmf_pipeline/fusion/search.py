"""Search of the settings of a fold within its training part, by scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import PredefinedSplit, RandomizedSearchCV

from ecmf_pipeline.core.arrays import assign_folds, group_indices, validation_rows
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.fusion.plan import Plan, Settings
from ecmf_pipeline.fusion.trained import predict_with_model, standardise

SEARCH_FOLD = 1_000_003
"""Fold number that separates the seeds of the search from those of the folds."""


def search_settings(plan: Plan, fold: int) -> Settings:
    """Return the settings for the models of a fold: the best of a search by inner folds.

    The fold itself is not used: its score stays unbiased.

    Raises:
        ParamsError: If a width of the search is not a multiple of the number of heads.
    """
    training = plan.training
    if widths := training.search.indivisible_widths(plan.fusion.heads):
        raise ParamsError(
            f"search.hidden: {', '.join(map(str, widths))} must be multiples of fusion.heads ({plan.fusion.heads})",
            "change search.hidden or fusion.heads",
        )
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
        standard = plan.standardise(np.sort(rows), np.sort(rows))
        self.member_ = plan.train_on(
            rows[~is_validation], rows[is_validation], (SEARCH_FOLD, 0), self.settings(), standard
        )
        return self

    def predict(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the most likely class of rows of the plan; -1 if the model cannot predict a row."""
        inputs = self.shared.plan.examples.inputs
        rows = torch.from_numpy(numbers[:, 0])
        usable = (inputs.present[rows] & self.member_.model.seen).any(dim=1).cpu().numpy()
        classes = np.full(len(numbers), -1, dtype=np.int64)
        chosen = rows[torch.from_numpy(usable)].to(inputs.present.device)
        standard = standardise(self.member_.model, inputs[chosen])
        outputs = predict_with_model(self.member_.model, standard, torch.arange(len(chosen)))
        classes[usable] = outputs.probs.argmax(axis=1)
        return classes
