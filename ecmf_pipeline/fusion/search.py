"""A bounded hyper-parameter search inside the training part of each fold, by scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from ecmf_pipeline.core.arrays import assign_folds, group_indices, validation_rows
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.fusion.plan import Plan, Settings
from ecmf_pipeline.fusion.prediction import judge

SEARCH_FOLD = 1_000_003
"""Seeds the models of the search apart from those of the folds."""


def found_settings(plan: Plan, fold: int) -> Settings:
    """The settings for the models of a fold: as configured, or the best of ``search.trials`` by inner folds.

    The fold itself is never looked at, so that what it reports is not chosen on itself.

    Raises:
        ParamsError: When a width to draw cannot be shared by the heads.
    """
    training = plan.training
    configured = Settings(plan.fusion, training)
    if not training.search.trials:
        return configured
    if odd := training.search.not_split_by(plan.fusion.heads):
        raise ParamsError(
            f"search.hidden: {', '.join(map(str, odd))}: each must be a multiple of fusion.heads ({plan.fusion.heads})"
        )
    from sklearn.model_selection import PredefinedSplit, RandomizedSearchCV

    rows = plan.rows_outside(fold)
    rng = np.random.default_rng([training.seed, fold, SEARCH_FOLD])
    inner = assign_folds(plan.classes[rows], _dividing(plan.groups_of(rows)), training.search.folds, rng=rng)
    grid = {name: list(getattr(training.search, name)) for name in FusionEstimator.SEARCHED}
    search = RandomizedSearchCV(
        FusionEstimator(_Shared(plan)),
        grid,
        n_iter=min(training.search.trials, math.prod(map(len, grid.values()))),
        cv=PredefinedSplit(inner),
        scoring="f1_weighted",
        refit=False,
        random_state=int(rng.integers(2**31)),
        error_score="raise",
    )
    search.fit(rows[:, None], plan.classes[rows])
    return FusionEstimator(_Shared(plan), **search.best_params_).settings()


def _dividing(groups: Sequence[str] | None) -> Sequence[str] | None:
    """The groups, where inner folds can be dealt by them; of two groups in all, one is left when the other is held out.

    Clips are then dealt by label: a lenient judge among settings, but the fold that is evaluated stays out of it.
    """
    named = group_indices(groups)
    return None if named is None or len(np.unique(named)) < 2 else groups


class _Shared:
    """A plan that scikit-learn's `clone` hands on as it is, since it would copy all features."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __deepcopy__(self, _memo: Any) -> _Shared:
        return self


class FusionEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fusion model as a scikit-learn classifier whose X are row numbers, (n, 1)."""

    SEARCHED = ("hidden", "layers", "dropout", "learning_rate", "weight_decay")

    def __init__(
        self,
        shared: _Shared,
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
        """The configured settings with those that are set here."""
        given = {name: getattr(self, name) for name in self.SEARCHED if getattr(self, name) is not None}
        plan = self.shared.plan
        fusion = {name: value for name, value in given.items() if name in type(plan.fusion).model_fields}
        training = {name: value for name, value in given.items() if name not in fusion}
        # Built anew, not copied with an update, so that what was drawn is validated.
        return Settings(
            type(plan.fusion)(**(plan.fusion.model_dump() | fusion)),
            type(plan.training)(**(plan.training.model_dump() | training)),
        )

    def fit(self, numbers: NDArray[np.int64], labels: NDArray[np.int64]) -> FusionEstimator:
        """Train one model on rows of the plan, some of them kept aside to stop it."""
        plan, rows = self.shared.plan, numbers[:, 0]
        aside = validation_rows(
            labels,
            plan.groups_of(rows),
            plan.training.validation_share,
            part=0,
            rng=np.random.default_rng(plan.training.seed),
        )
        self.classes_ = np.arange(plan.n_classes)
        self.member_ = plan.train_on(rows[~aside], rows[aside], (SEARCH_FOLD, 0), self.settings())
        return self

    def predict(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The likeliest class of rows of the plan; -1 where the model cannot judge one."""
        inputs = self.shared.plan.examples.inputs
        rows = torch.from_numpy(numbers[:, 0])
        usable = (inputs.present[rows] & self.member_.model.seen).any(dim=1).cpu().numpy()
        found = np.full(len(numbers), -1, dtype=np.int64)
        judged = judge(self.member_.model, inputs, rows[torch.from_numpy(usable)])
        found[usable] = judged[:, : self.shared.plan.n_classes].argmax(axis=1)
        return found
