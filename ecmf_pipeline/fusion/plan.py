"""Training part, validation part, settings and seeds of each model of an ensemble.

The settings may be searched for inside the training part of each fold, by scikit-learn.
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
from ecmf_pipeline.fusion.model import FusionModel, build
from ecmf_pipeline.fusion.prediction import Member, judge

NEVER = -2
"""The fold of a row that no model may learn from."""

SEARCH_FOLD = 1_000_003
"""Seeds the models of the search apart from those of the folds."""


@dataclass(frozen=True)
class Settings:
    """What may differ from fold to fold: the shape of a model and how it is trained."""

    fusion: FusionConfig
    training: TrainingConfig


@dataclass(frozen=True)
class Plan:
    """All that the models of an ensemble have in common.

    Attributes:
        examples: All n rows, on the device.
        classes: Class indices, (n,).
        groups: Speaker or dialogue of each row, or None.
        folds: The fold of each row, (n,), or `NEVER`.
        dims: D of each modality.
        n_classes: C.
        fusion: The shape of the models.
        training: How they are trained.
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
        """Train one model on the rows outside its fold; ``optimistic`` stops it by the rows of the fold itself."""
        rows = self.rows_outside(fold)
        held_out = np.flatnonzero(self.folds == fold)
        if optimistic and self._can_judge(rows, held_out, settings.fusion):
            return self.train_on(rows, held_out, (fold, repeat), settings, by_f1=True)
        aside = validation_rows(
            self.classes[rows],
            self.groups_of(rows),
            self.training.validation_share,
            part=repeat,
            rng=np.random.default_rng([self.training.seed, fold]),  # the same parts for all repeats of a fold
        )
        return self.train_on(rows[~aside], rows[aside], (fold, repeat), settings)

    def train_on(
        self,
        learned: NDArray[np.int64],
        validated: NDArray[np.int64],
        which: tuple[int, int],
        settings: Settings,
        *,
        by_f1: bool = False,
    ) -> Member:
        """Train one model on rows, stopped by others; ``which`` is its fold and repeat, and seeds it.

        Where none of the others has a modality that the rows have (a group kept aside whole may be the only one with
        it), all of them are parted anew, by label.

        Raises:
            TooFewClips: When no such row is left even so.
        """
        fold, repeat = which
        if not by_f1 and not self._can_judge(learned, validated, settings.fusion):
            learned, validated = self._parted_by_label(learned, validated, which, settings.fusion)
        device = self.examples.labels.device
        seeds = np.random.SeedSequence([self.training.seed, *which]).generate_state(3).tolist()
        # Initial weights and dropout draw from torch's own generators: forked, so that nothing leaks out.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seeds[0])
            model = build(settings.fusion, self.dims, self.n_classes).to(device)
            own = self.examples[torch.from_numpy(learned).to(device)]
            model.standardise_by(own.inputs.features, own.inputs.present)
            judges = self.examples[torch.from_numpy(validated).to(device)]
            judges = judges[(judges.inputs.present & model.seen).any(dim=1).nonzero().squeeze(1)]
            epochs, loss = MemberTraining(
                model=model,
                learned=_standardised(model, own),
                validated=_standardised(model, judges),
                config=settings.training,
                generator=torch.Generator().manual_seed(seeds[1]),
                rng=np.random.default_rng(seeds[2]),
                by_f1=by_f1,
            ).run()
        return Member(model.eval(), fold, repeat, epochs, loss, settings.training)

    def rows_outside(self, fold: int) -> NDArray[np.int64]:
        """The rows that models of a fold may learn from.

        Raises:
            TooFewClips: When they are of fewer than two classes.
        """
        rows = np.flatnonzero((self.folds != fold) & (self.folds != NEVER))
        if len(np.unique(self.classes[rows])) < 2:
            raise TooFewClips(
                f"outside fold {fold}, {len(rows)} clips of fewer than two classes are left to train on",
                "label more clips, or clips of more speakers",
            )
        return rows

    def _can_judge(self, learned: NDArray[np.int64], validated: NDArray[np.int64], fusion: FusionConfig) -> bool:
        """Whether a model of ``learned`` rows can say anything of any ``validated`` one."""
        present = self.examples.inputs.present.cpu().numpy()  # (n, M)
        listened = np.array([fusion.single in (None, name) for name in self.dims])  # (M,)
        return bool((present[validated] & listened & present[learned].any(axis=0, keepdims=True)).any())

    def _parted_by_label(
        self, learned: NDArray[np.int64], validated: NDArray[np.int64], which: tuple[int, int], fusion: FusionConfig
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All rows of a training part as rows to learn from and rows kept aside, which share a modality."""
        (fold, repeat), rows = which, np.union1d(learned, validated)
        share = self.training.validation_share
        for part in range(max(2, round(1 / share))):
            rng = np.random.default_rng([self.training.seed, fold])
            aside = validation_rows(self.classes[rows], None, share, part=repeat + part, rng=rng)
            if self._can_judge(rows[~aside], rows[aside], fusion):
                return rows[~aside], rows[aside]
        if fusion.single or fusion.kind == "mean_probs":
            return learned, validated  # each modality is trained by itself, if it can be, and nothing after that
        raise TooFewClips(
            f"of {len(rows)} clips to train on, no part has a modality that the others have",
            "extract a modality that more clips have, or label more clips",
        )

    def groups_of(self, rows: NDArray[np.int64]) -> list[str] | None:
        """The groups of rows, or None."""
        return None if self.groups is None else [self.groups[row] for row in rows.tolist()]


def _standardised(model: FusionModel, examples: Examples) -> Examples:
    """Once for all epochs."""
    features = model.standardised(examples.inputs.features, examples.inputs.present)
    return Examples(Inputs(features, examples.inputs.present), examples.labels, examples.weights)


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
