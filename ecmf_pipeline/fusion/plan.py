"""Training rows, validation rows, settings and seeds of each model of an ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import validation_rows
from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import Inputs
from ecmf_pipeline.fusion.kernel import FittedPath, fit_kernel_path, fit_shares
from ecmf_pipeline.fusion.kinds import build_model
from ecmf_pipeline.fusion.member import Examples, MemberTraining, class_weights
from ecmf_pipeline.fusion.model import Standardiser
from ecmf_pipeline.fusion.trained import Member

NO_TRAINING = -2
"""Fold of a row that no model is trained on."""


@dataclass(frozen=True)
class Settings:
    """The settings that may differ between folds: model shape and training."""

    fusion: FusionConfig
    training: TrainingConfig


@dataclass(frozen=True)
class StandardRows:
    """Standardised rows.

    Attributes:
        rows: Their numbers, ascending, (r,).
        examples: The rows, on the device.
        standardisers: The standardiser of each modality.
    """

    rows: NDArray[np.int64]
    examples: Examples
    standardisers: Sequence[Standardiser]

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of some of the rows, given by their numbers."""
        return np.searchsorted(self.rows, rows)

    def select(self, rows: NDArray[np.int64]) -> Examples:
        """Return some of the rows by their numbers."""
        return self.examples[torch.from_numpy(self.positions(rows)).to(self.examples.labels.device)]


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

    def train_fold(self, fold: int, settings: Settings, *, optimistic: bool = False) -> Iterator[Member]:
        """Train the models of a fold, one after another, on the rows outside the fold.

        Each standardises by its training rows alone: with fewer clips than columns, validation rows that took part
        would differ less from the training rows than the rows of the fold do.

        Args:
            fold: The fold.
            settings: Shape and training of the models.
            optimistic: Whether the rows of the fold itself are the validation rows.
        """
        rows = self.training_rows(fold)
        held_out = np.flatnonzero(self.folds == fold)
        optimistic = optimistic and self._can_predict(rows, held_out, settings.fusion)
        repeats = range(self.training.seeds)
        splits = [(rows, held_out) if optimistic else self._split(rows, fold, one, settings.fusion) for one in repeats]
        fitted = None
        if settings.fusion.has_kernel_path:
            fitted = self._fit_path(fold, rows, [validation for _, validation in splits], settings.training)
        for repeat, (training, validation) in enumerate(splits):
            standard = self.standardise(training, np.union1d(training, validation))
            member = self.train_on(training, validation, (fold, repeat), settings, standard, select_by_f1=optimistic)
            yield member if fitted is None else self._add_path(member, fitted, standard.select(validation))

    def standardise(self, fitted_rows: NDArray[np.int64], rows: NDArray[np.int64]) -> StandardRows:
        """Standardise ``rows`` (ascending) by the mean and deviation of ``fitted_rows``."""
        device = self.examples.labels.device
        fitted = self.examples.inputs[torch.from_numpy(fitted_rows).to(device)]
        chosen = fitted
        if len(rows) != len(fitted_rows):
            chosen = self.examples.inputs[torch.from_numpy(rows).to(device)]
        standardisers = [Standardiser(dim).to(device) for dim in self.dims.values()]
        features = []
        for index, standardiser in enumerate(standardisers):
            values, has_modality = fitted.features[index], fitted.present[:, index]
            if bool(has_modality.any()):
                standardiser.fit(values if bool(has_modality.all()) else values[has_modality])
            features.append(standardiser(chosen.features[index], chosen.present[:, index]))
        row_numbers = torch.from_numpy(rows).to(device)
        examples = Examples(
            Inputs(tuple(features), chosen.present),
            self.examples.labels[row_numbers],
            self.examples.weights[row_numbers],
        )
        return StandardRows(rows, examples, standardisers)

    def _fit_path(
        self,
        fold: int,
        rows: NDArray[np.int64],
        validations: Sequence[NDArray[np.int64]],
        training: TrainingConfig,
    ) -> FittedPath:
        """Fit the kernel path of a fold to ``rows``."""
        standard = self.standardise(rows, np.union1d(rows, np.concatenate(validations)))
        weights = class_weights(standard.select(rows), self.n_classes, training.class_weights)
        return fit_kernel_path(
            standard.examples,
            standard.examples.weights * weights[standard.examples.labels],
            standard.positions(rows),
            [standard.positions(validation) for validation in validations],
            self.n_classes,
            standard.standardisers,
            seed=int(np.random.SeedSequence([self.training.seed, fold]).generate_state(1)[0]),
        )

    @torch.no_grad()
    def _add_path(self, member: Member, fitted: FittedPath, validation: Examples) -> Member:
        """Return the member with the path of its fold, and with shares fitted to its validation rows."""
        model, present = member.model, validation.inputs.present
        rows = (present & model.seen).any(dim=1).nonzero().squeeze(1)
        chosen = validation[rows]
        weights = class_weights(chosen, self.n_classes, member.training.class_weights)[chosen.labels]
        shares = fit_shares(
            model.combine(chosen.inputs.features, chosen.inputs.present).logits.log_softmax(dim=1),
            fitted.held_out[member.repeat][rows],
            model.available(chosen.inputs.present),
            chosen.labels,
            chosen.weights * weights,
        )
        return replace(member, path=fitted.path, shares=shares)

    def _split(
        self, rows: NDArray[np.int64], fold: int, repeat: int, fusion: FusionConfig
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return training and validation rows of a model."""
        is_validation = validation_rows(
            self.classes[rows],
            self.groups_of(rows),
            self.training.validation_share,
            part=repeat,
            rng=np.random.default_rng([self.training.seed, fold]),  # the same parts for all repeats of a fold
        )
        training, validation = rows[~is_validation], rows[is_validation]
        if self._can_predict(training, validation, fusion):
            return training, validation
        return self._split_by_label(training, validation, (fold, repeat), fusion)

    def train_on(
        self,
        training: NDArray[np.int64],
        validation: NDArray[np.int64],
        fold_and_repeat: tuple[int, int],
        settings: Settings,
        standard: StandardRows,
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
            standard: All these rows, standardised.
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
            model.set_standardisers(standard.standardisers)
            training_examples = standard.select(training)
            model.see(training_examples.inputs.present)
            validation_examples = standard.select(validation)
            can_predict = (validation_examples.inputs.present & model.seen).any(dim=1)
            if not bool(can_predict.all()):
                validation_examples = validation_examples[can_predict.nonzero().squeeze(1)]
            fit = MemberTraining(
                model=model,
                training=training_examples,
                validation=validation_examples,
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
