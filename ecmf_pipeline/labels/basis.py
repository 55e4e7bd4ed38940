"""Decide whether a corpus has enough labels to train on, and which labels these are."""

from __future__ import annotations

import numpy as np

from ecmf_pipeline.core.arrays import Ints
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.labels.verdicts import MIN_GOLD

MIN_CLIPS_OF_LABEL = 2
"""Clips that each of two labels needs: one to train on and one to predict."""


def can_train(labels: Ints) -> bool:
    """Return whether at least two labels have `MIN_CLIPS_OF_LABEL` clips each, for labels (n,), -1 without one."""
    counts = np.bincount(labels[labels >= 0])
    return int((counts >= MIN_CLIPS_OF_LABEL).sum()) >= 2


def training_basis(given: Ints, verdicts: Ints) -> Basis:
    """Return what models of this corpus are trained on.

    Given labels are used if there are enough to train on. Otherwise they count as verdicts: there are too few to
    measure how many of them are wrong. With `MIN_GOLD` verdicts of two labels, models are trained on the verdicts.

    Args:
        given: Given labels, (n,); -1 if there is none.
        verdicts: Labels that a person has verified, (n,); -1 if there is none.

    Returns:
        `Basis.GIVEN`, `Basis.VERDICTS`, or `Basis.ZERO_SHOT` if nothing can be trained.
    """
    if can_train(given):
        return Basis.GIVEN
    known = known_labels(given, verdicts)
    enough = int((known >= 0).sum()) >= MIN_GOLD and can_train(known)
    return Basis.VERDICTS if enough else Basis.ZERO_SHOT


def known_labels(given: Ints, verdicts: Ints) -> Ints:
    """Return the verdicts, (n,), and the given labels of clips without one."""
    return np.where(verdicts >= 0, verdicts, given)


def describe_verdicts(known: Ints) -> str:
    """Return how many of the needed verdicts there are, and what else is missing to train on them, for labels (n,)."""
    n_known = int((known >= 0).sum())
    text = f"{n_known} of {MIN_GOLD} verdicts"
    if n_known >= MIN_GOLD and not can_train(known):
        text += f", but fewer than two labels with at least {MIN_CLIPS_OF_LABEL} clips each"
    return text
