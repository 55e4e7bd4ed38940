"""Fit Dawid and Skene's model (1979): one confusion matrix per source, votes independent given the true label.

Expectation-maximisation runs over the distinct rows of votes, so 130,000 clips cost as much as their few thousand vote
patterns. Gold labels count as observed truth. Votes are hard: soft votes make the first expectation step overconfident,
and the model collapses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import softmax

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.votes import ABSTAIN

FIT_SAMPLE = 50_000
"""Maximum number of clips without known label that a model is fitted to: a million have half a million patterns."""


@dataclass(frozen=True, slots=True)
class VotePatterns:
    """Hard votes of n clips, stored as distinct patterns.

    Attributes:
        rows: One-hot votes of each pattern, (u, S * K), sparse; an abstention has no entry.
        pattern: Index of each clip's pattern, (n,).
        shape: S, K.
    """

    rows: sparse.csr_array
    pattern: Ints
    shape: tuple[int, int]

    def count_clips(self, clips: NDArray[np.bool_]) -> Floats:
        """Return the number of chosen clips with each pattern, (u,)."""
        counts: Floats = np.bincount(self.pattern[clips], minlength=self.rows.shape[0]).astype(np.float64)
        return counts

    def count_votes(self, clips: Ints, labels: Ints) -> Floats:
        """Return the number of votes of each source by label, (S, K true, K voted), for clips with known labels."""
        truth = np.zeros((self.rows.shape[0], self.shape[1]))
        np.add.at(truth, (self.pattern[clips], labels), 1.0)
        return self.expected_votes(truth)

    def expected_votes(self, truth: Floats) -> Floats:
        """Return the expected number of votes of each source by true label, (S, K true, K voted).

        Args:
            truth: Expected number of clips by pattern and true label, (u, K).
        """
        sources, classes = self.shape
        counts: Floats = (self.rows.T @ truth).reshape(sources, classes, classes)  # (S, K voted, K true)
        return np.swapaxes(counts, 1, 2)


@dataclass(frozen=True, slots=True)
class DawidSkene:
    """A fitted model: class shares (K,) and P(vote | truth) of each source, (S, K true, K voted)."""

    shares: Floats
    confusion: Floats

    def scores(self, rows: sparse.csr_array) -> Floats:
        """Return log P(truth, votes), (u, K), for one-hot votes (u, S * K)."""
        sources, classes, _ = self.confusion.shape
        table = np.log(np.swapaxes(self.confusion, 1, 2)).reshape(sources * classes, classes)  # rows: source and vote
        scores: Floats = rows @ table + np.log(self.shares)
        return scores


def sample_clips(clips: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a mask, (n,), of the given clips; of a random sample of `FIT_SAMPLE` of them if there are more.

    The shares that a model estimates from the sample have a standard error below 0.3 percent.
    """
    rows = np.flatnonzero(clips)
    if len(rows) <= FIT_SAMPLE:
        return clips
    sample = np.zeros(len(clips), np.bool_)
    sample[rng.choice(rows, FIT_SAMPLE, replace=False)] = True
    return sample


def vote_patterns(hard_votes: Ints, classes: int) -> VotePatterns:
    """Find the distinct patterns of hard votes (n, S), which hold `ABSTAIN` for abstentions."""
    clips, sources = hard_votes.shape
    if (classes + 1.0) ** sources < 2**62:
        key = np.zeros(clips, np.int64)
        for column in hard_votes.T:
            key = key * (classes + 1) + (column + 1)
        _, first, pattern = np.unique(key, return_index=True, return_inverse=True)
    else:
        _, first, pattern = np.unique(hard_votes, axis=0, return_index=True, return_inverse=True)
    distinct = hard_votes[first]  # (u, S)
    voting = distinct != ABSTAIN
    columns = (np.arange(sources) * classes + distinct)[voting]
    starts = np.concatenate([[0], voting.sum(axis=1).cumsum()])
    rows = sparse.csr_array((np.ones(len(columns)), columns, starts), shape=(len(distinct), sources * classes))
    return VotePatterns(rows, pattern.reshape(-1).astype(np.int64), (sources, classes))


def posterior_mean(counts: Floats, class_counts: Floats, strength: float) -> DawidSkene:
    """Return the posterior mean of the confusion matrices and class shares.

    Each row of a confusion matrix has a Dirichlet prior of total weight ``strength``. Its centre does not depend on the
    class: the accuracy of the source on the diagonal, and its overall distribution of wrong votes elsewhere.

    Args:
        counts: Observed or expected votes by source and true label, (S, K true, K voted).
        class_counts: Clips by true label, (K,).
        strength: Weight of the prior, in clips of each class.
    """
    sources, classes, _ = counts.shape
    correct = np.einsum("skk->s", counts)
    # Prior of the accuracy: one half, with the weight of two votes.
    accuracy = (correct + 1.0) / (counts.sum(axis=(1, 2)) + 2.0)  # (S,)
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
    votes: VotePatterns,
    unknown: Floats,
    known_counts: Floats,
    known_classes: Floats,
    *,
    start: DawidSkene,
    strength: float,
    rounds: int = 50,
    tolerance: float = 1e-4,
) -> DawidSkene:
    """Fit the model by expectation-maximisation.

    Args:
        votes: The vote patterns.
        unknown: Number of clips with unknown label by pattern, (u,).
        known_counts: Votes by source and label over clips with known label, (S, K, K).
        known_classes: Clips with known label by label, (K,).
        start: Initial model.
        strength: See `posterior_mean`.
        rounds: Maximum number of iterations.
        tolerance: Stop if no class share and no confusion entry changes by more than this.
    """
    occurs = unknown > 0
    rows, unknown = votes.rows[occurs], unknown[occurs]
    sources, classes = votes.shape
    model = start
    for _ in range(rounds):
        expected_clips = unknown[:, None] * softmax(model.scores(rows), axis=1)  # (u, K)
        counts = np.swapaxes((rows.T @ expected_clips).reshape(sources, classes, classes), 1, 2)
        updated = posterior_mean(counts + known_counts, expected_clips.sum(axis=0) + known_classes, strength)
        change = max(np.abs(updated.confusion - model.confusion).max(), np.abs(updated.shares - model.shares).max())
        model = updated
        if change < tolerance:
            break
    return model
