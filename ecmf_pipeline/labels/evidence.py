"""Votes as arrays: checked, as centred log-probabilities, and as first choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ABSTAIN = -1
"""The vote of a source that has no opinion of a clip."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What S sources say of n clips and K labels.

    Attributes:
        logs: Centred log-probabilities, (n, S, K): zero, which says nothing, where a source abstains.
        cast: First choices, (n, S), `ABSTAIN` where there is none.
    """

    logs: Floats
    cast: Ints

    @property
    def silent(self) -> NDArray[np.bool_]:
        """Whether all sources abstain, (n,)."""
        silent: NDArray[np.bool_] = (self.cast == ABSTAIN).all(axis=1)
        return silent


def evidence_of(votes: Mapping[str, NDArray[np.floating]], *, floor: float) -> Evidence:
    """Check the votes of all sources and bring them together.

    Args:
        votes: Probabilities by source, (n, K) each; a row that is all NaN abstains.
        floor: Probabilities are clipped here: no single source may rule a label out, or in.

    Raises:
        ValueError: When there is no source, shapes differ, or a row is neither a distribution nor all NaN.
    """
    if not votes:
        raise ValueError("there is no source of votes")
    shapes = {np.shape(probs) for probs in votes.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"votes must all be (n, K), not {sorted(shapes)}")
    stacked = np.stack([np.asarray(probs, np.float64) for probs in votes.values()], axis=1)
    silent = np.asarray(np.isnan(stacked).all(axis=2))  # (n, S)
    voting = stacked[~silent]
    if not (np.all(voting >= 0) and np.allclose(voting.sum(axis=1), 1.0, atol=1e-3)):
        raise ValueError("a vote must be a distribution over the labels, or all NaN")
    logs = np.log(np.clip(stacked, floor, 1.0))
    logs -= logs.mean(axis=2, keepdims=True)
    logs[silent] = 0.0
    cast = np.where(silent, ABSTAIN, np.where(silent[:, :, None], 0.0, stacked).argmax(axis=2))
    return Evidence(logs, cast.astype(np.int64))


def first_choice(probs: NDArray[np.floating]) -> Ints:
    """The label each row of probs (n, K) favours, (n,); `ABSTAIN` where the row is all NaN."""
    silent = np.isnan(probs).all(axis=1)
    choice = np.where(silent[:, None], 0.0, probs).argmax(axis=1)
    return np.where(silent, ABSTAIN, choice).astype(np.int64)
