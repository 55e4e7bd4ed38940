"""Training part, validation part and seeds of each model of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import validation_rows
from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import Inputs
from ecmf_pipeline.fusion.member import Examples, MemberTraining
from ecmf_pipeline.fusion.model import FusionModel, build
from ecmf_pipeline.fusion.prediction import Member

NEVER = -2
"""The fold of a row that no model may learn from."""


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
