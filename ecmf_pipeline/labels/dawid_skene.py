"""Dawid and Skene's model (1979) of hard votes: every source has a confusion matrix, votes are independent given truth.

It is fitted by expectation-maximisation over the distinct rows of votes, so 130,000 clips cost what their few thousand
patterns cost. Gold labels, where there are any, count as observed truth. Votes are hard: soft ones make the expectation
step sure of itself before it has learned anything, and collapse it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import softmax

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.votes import ABSTAIN


@dataclass(frozen=True, slots=True)
class Ballots:
    """Hard votes of n clips as their distinct patterns.

    Attributes:
        rows: One-hot votes of each pattern, (u, S * K), sparse; a source that abstains has no entry.
        pattern: The pattern of each clip, (n,).
        shape: S, K.
    """

    rows: sparse.csr_array
    pattern: Ints
    shape: tuple[int, int]

    def counted(self, clips: NDArray[np.bool_]) -> Floats:
        """How many of the chosen clips show each pattern, (u,)."""
        counts: Floats = np.bincount(self.pattern[clips], minlength=self.rows.shape[0]).astype(np.float64)
        return counts

    def by_class(self, clips: Ints, labels: Ints) -> Floats:
        """How often each source casts each vote where the label is known, (S, K true, K voted)."""
        truth = np.zeros((self.rows.shape[0], self.shape[1]))
        np.add.at(truth, (self.pattern[clips], labels), 1.0)
        return self.expected(truth)

    def expected(self, truth: Floats) -> Floats:
        """How often each source casts each vote by true class, (S, K true, K voted), of clips by pattern, (u, K)."""
        sources, classes = self.shape
        counts: Floats = (self.rows.T @ truth).reshape(sources, classes, classes)  # (S, K voted, K true)
        return np.swapaxes(counts, 1, 2)


@dataclass(frozen=True, slots=True)
class DawidSkene:
    """A fitted model: class shares (K,) and P(vote | truth) of each source, (S, K true, K voted)."""

    shares: Floats
    confusion: Floats

    def scores(self, rows: sparse.csr_array) -> Floats:
        """Log P(truth, votes) of one-hot votes (u, S * K), (u, K)."""
        sources, classes, _ = self.confusion.shape
        table = np.log(np.swapaxes(self.confusion, 1, 2)).reshape(sources * classes, classes)  # rows: source and vote
        scores: Floats = rows @ table + np.log(self.shares)
        return scores


def ballots(cast: Ints, classes: int) -> Ballots:
    """Hard votes (n, S), `ABSTAIN` where there is none, as distinct patterns."""
    clips, sources = cast.shape
    if (classes + 1.0) ** sources < 2**62:
        key = np.zeros(clips, np.int64)
        for column in cast.T:
            key = key * (classes + 1) + (column + 1)
        _, first, pattern = np.unique(key, return_index=True, return_inverse=True)
    else:
        _, first, pattern = np.unique(cast, axis=0, return_index=True, return_inverse=True)
    distinct = cast[first]  # (u, S)
    voting = distinct != ABSTAIN
    columns = (np.arange(sources) * classes + distinct)[voting]
    starts = np.concatenate([[0], voting.sum(axis=1).cumsum()])
    rows = sparse.csr_array((np.ones(len(columns)), columns, starts), shape=(len(distinct), sources * classes))
    return Ballots(rows, pattern.reshape(-1).astype(np.int64), (sources, classes))


def from_counts(counts: Floats, class_counts: Floats, strength: float) -> DawidSkene:
    """The posterior mean of the confusions and class shares.

    Each row of a source's confusion has a Dirichlet prior of total weight ``strength``, centred on what the source does
    regardless of class: its accuracy on the diagonal, its usual wrong votes beside it.

    Args:
        counts: Votes by source and true class, (S, K true, K voted); expected counts will do.
        class_counts: Clips by true class, (K,).
        strength: Weight of the prior, in clips of each class.
    """
    sources, classes, _ = counts.shape
    right = np.einsum("skk->s", counts)
    # Before any vote is seen a source is taken to be right in half its votes, with the weight of two of them.
    accuracy = (right + 1.0) / (counts.sum(axis=(1, 2)) + 2.0)  # (S,)
    wrong = counts.sum(axis=1) - np.einsum("skk->sk", counts) + 1.0  # (S, K voted)
    centre = np.empty((sources, classes, classes))
    for truth in range(classes):
        others = wrong.copy()
        others[:, truth] = 0.0
        total = others.sum(axis=1, keepdims=True)
        centre[:, truth] = (1 - accuracy)[:, None] * others / np.where(total > 0, total, 1.0)
        centre[:, truth, truth] = accuracy
    confusion = counts + strength * centre
    confusion /= confusion.sum(axis=2, keepdims=True)
    shares = class_counts + 1.0
    return DawidSkene(shares / shares.sum(), np.clip(confusion, 1e-6, 1.0))


def fit(
    votes: Ballots,
    unknown: Floats,
    known_counts: Floats,
    known_classes: Floats,
    *,
    start: DawidSkene,
    strength: float,
    rounds: int = 50,
    tolerance: float = 1e-4,
) -> DawidSkene:
    """Expectation-maximisation.

    Args:
        votes: The patterns.
        unknown: How many clips of unknown truth show each pattern, (u,).
        known_counts: Votes by source and class where the truth is known, (S, K, K).
        known_classes: Clips by class where it is known, (K,).
        start: Where to begin.
        strength: See `from_counts`.
        rounds: Upper bound of the steps.
        tolerance: Stop when no class share and no confusion moves further than this.
    """
    seen = unknown > 0
    rows, unknown = votes.rows[seen], unknown[seen]
    sources, classes = votes.shape
    model = start
    for _ in range(rounds):
        expected = unknown[:, None] * softmax(model.scores(rows), axis=1)  # (u, K)
        counts = np.swapaxes((rows.T @ expected).reshape(sources, classes, classes), 1, 2)
        found = from_counts(counts + known_counts, expected.sum(axis=0) + known_classes, strength)
        moved = max(np.abs(found.confusion - model.confusion).max(), np.abs(found.shares - model.shares).max())
        model = found
        if moved < tolerance:
            break
    return model
