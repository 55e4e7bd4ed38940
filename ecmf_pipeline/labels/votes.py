"""How each source of votes fares: reliability, confusion, and with whom it errs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from ecmf_pipeline.core.arrays import Floats, Ints

ABSTAIN = -1
"""The vote of a source that has no opinion of a clip."""


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


@dataclass(frozen=True, slots=True)
class SourceReport:
    """How one source fares.

    Attributes:
        name: Its name.
        coverage: Share of the clips it votes on.
        judged_by: What its votes are compared with: gold labels, or what all sources together say, where there are no
            gold labels (which flatters sources that err together).
        votes: How many votes are compared.
        reliability: Share of them that are right; NaN where there are none.
        reliability_interval: Its 95% interval (Jeffreys).
        confusion: P(vote | truth), (K true, K voted), shrunk towards equal shares by one vote a row.
        confusion_low: Lower end of its 95% intervals, (K, K).
        confusion_high: Upper end, (K, K).
        error_correlation: Correlation of its errors with each source's, by name: 1 errs where this one does, 0 errs
            independently; NaN where they share no votes, or one of them never (or always) errs.
    """

    name: str
    coverage: float
    judged_by: Literal["gold", "votes"]
    votes: int
    reliability: float
    reliability_interval: tuple[float, float]
    confusion: Floats
    confusion_low: Floats
    confusion_high: Floats
    error_correlation: dict[str, float]


def report_sources(
    names: Sequence[str], cast: Ints, truth: Floats, judged: NDArray[np.bool_], *, gold: bool
) -> tuple[SourceReport, ...]:
    """Compare every source with the truth.

    Args:
        names: The sources, S.
        cast: Their votes, (n, S).
        truth: Probabilities of the truth, (n, K), one-hot where it is known.
        judged: The clips to compare on, (n,).
        gold: Whether the truth is gold labels there.
    """
    classes = truth.shape[1]
    voting = cast[judged] != ABSTAIN  # (m, S)
    known = truth[judged]
    correlation = error_correlations(cast[judged], known)
    reports = []
    for index, name in enumerate(names):
        counts = known[voting[:, index]].T @ np.eye(classes)[cast[judged][voting[:, index], index]]  # (K, K)
        total = counts.sum(axis=1, keepdims=True)
        right, votes = float(np.trace(counts)), float(counts.sum())
        low, high = beta.ppf([0.025, 0.975], right + 0.5, votes - right + 0.5)
        share = (counts + 1 / classes) / (total + 1.0)
        others = total + 1.0 - (counts + 1 / classes) if classes > 1 else np.full((1, 1), 1e-9)
        reports.append(
            SourceReport(
                name=name,
                coverage=float((cast[:, index] != ABSTAIN).mean()) if len(cast) else 0.0,
                judged_by="gold" if gold else "votes",
                votes=int(voting[:, index].sum()),
                reliability=right / votes if votes else float("nan"),
                reliability_interval=(float(low), float(high)),
                confusion=share,
                confusion_low=beta.ppf(0.025, counts + 1 / classes, others),
                confusion_high=beta.ppf(0.975, counts + 1 / classes, others),
                error_correlation=dict(zip(names, correlation[index].tolist(), strict=True)),
            )
        )
    return tuple(reports)


def error_correlations(cast: Ints, truth: Floats) -> Floats:
    """Correlations of the sources' errors, (S, S), each over the clips that both vote on; NaN where it is unknown.

    Args:
        cast: Their votes, (n, S).
        truth: Probabilities of the truth, (n, K).
    """
    voting = cast != ABSTAIN
    chosen = truth[np.arange(len(truth))[:, None], np.where(voting, cast, 0)]
    error = np.where(voting, 1.0 - chosen, 0.0)  # (n, S) expected errors
    ballots = voting.astype(np.float64)
    shared = ballots.T @ ballots
    least = np.where(shared > 0, shared, 1.0)
    mine = (error.T @ ballots) / least  # (S, S) error of the row's source where the column's votes too
    both = (error.T @ error) / least
    # An expected error of 0.3 is a coin, not a third of an error: its variance is that of the coin.
    np.fill_diagonal(both, np.diag(mine))
    covariance = both - mine * mine.T
    variance = mine * (1 - mine)
    scale = np.sqrt(variance * variance.T)
    usable = (shared > 1) & (scale > 1e-12)
    correlations: Floats = np.divide(covariance, scale, out=np.full_like(covariance, np.nan), where=usable)
    return correlations
