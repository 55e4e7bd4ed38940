"""Count votes, and break ties by the reliability of the sources, which the votes alone show.

A source is reliable if it agrees with the other sources. Among tied labels, the one wins whose probabilities, weighted
by the agreement of their sources, have the highest sum. For hard votes of three sources that all differ, this is the
label of the source that agrees most with the others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.votes import blocks

_TOLERANCE = 1e-9
"""Scores that differ by less are tied: sums in another order of the sources differ by rounding."""

_WINNER_BONUS = 1e-6
"""Score added to the label that wins a tie, as a share of the row's sum; too small to change a probability visibly."""


def count_votes(votes: Mapping[str, Floats], weights: Floats | None = None) -> Floats:
    """Return the share of the votes of each label, (n, K); ties are broken, so the highest share is unique.

    Args:
        votes: Probabilities by source, (n, K) each; a row of NaN is an abstention. A source votes for its most
            probable label; if m labels are equally probable, it gives each of them 1 / m of its vote.
        weights: Weight of each source, (S,); None: all are 1.

    Returns:
        Shares; equal shares for clips without votes.
    """
    clips, classes = next(iter(votes.values())).shape
    counts = np.empty((clips, classes))
    for rows in blocks(clips):
        ballots = _ballots(_fill_abstentions(votes, rows))
        counts[rows] = ballots.sum(axis=0) if weights is None else np.einsum("snk,s->nk", ballots, weights)
    return break_ties(normalise_rows(counts), votes)


def break_ties(scores: Floats, votes: Mapping[str, Floats]) -> Floats:
    """Raise the score of one label by a millionth in each clip whose highest score belongs to several labels.

    The rules, in this order; each one decides between the labels that the previous ones leave tied:

    1. The sum of the label's probabilities over the sources, each weighted by the source's `source_agreement`.
    2. The number of votes for the label on all clips.
    3. The order of the classes.

    Only the last rule depends on the order of the classes; none depends on the order of the sources.

    Args:
        scores: Scores or probabilities, (n, K). Rows keep their sum.
        votes: Probabilities by source, (n, K) each; a row of NaN is an abstention. Clips without votes keep their
            scores.
    """
    tied = _highest(scores, np.ones(scores.shape, dtype=bool))
    rows = np.flatnonzero(tied.sum(axis=1) > 1)
    probs = _fill_abstentions(votes, rows)  # (S, tied clips, K)
    has_votes = (probs > 0).any(axis=(0, 2))
    rows, probs = rows[has_votes], probs[:, has_votes]
    if not len(rows):
        return scores
    weighted_probs = np.einsum("snk,s->nk", probs, source_agreement(votes))
    candidates = _highest(weighted_probs, tied[rows])
    totals = sum(_ballots(_fill_abstentions(votes, block)).sum(axis=(0, 1)) for block in blocks(len(scores)))
    candidates = _highest(np.broadcast_to(totals, candidates.shape), candidates)
    broken = scores.copy()
    broken[rows, candidates.argmax(axis=1)] += _WINNER_BONUS * scores[rows].sum(axis=1)
    broken[rows] /= 1 + _WINNER_BONUS
    return broken


def source_agreement(votes: Mapping[str, Floats]) -> Floats:
    """Return how often each source agrees with the others, (S,).

    This is the share of equal votes among all pairs of its vote and a vote of another source on the same clip, shrunk
    towards 1 / K by one class's worth of pairs. A source that shares no clip with another one has 1 / K.

    Args:
        votes: Probabilities by source, (n, K) each; a row of NaN is an abstention.
    """
    clips, classes = next(iter(votes.values())).shape
    equal, pairs = np.zeros((len(votes), len(votes))), np.zeros((len(votes), len(votes)))
    for rows in blocks(clips):
        ballots = _ballots(_fill_abstentions(votes, rows))
        flat, voting = ballots.reshape(len(votes), -1), np.asarray(ballots.any(axis=2), np.float64)
        equal += flat @ flat.T
        pairs += voting @ voting.T
    np.fill_diagonal(equal, 0.0)
    np.fill_diagonal(pairs, 0.0)
    agreement: Floats = (equal.sum(axis=1) + 1) / (pairs.sum(axis=1) + classes)
    return agreement


def normalise_rows(rows: Floats) -> Floats:
    """Scale rows to sum to 1, (n, K); rows of zeros become equal shares."""
    totals = rows.sum(axis=1, keepdims=True)
    shares: Floats = np.where(totals > 0, rows / np.where(totals > 0, totals, 1.0), 1 / rows.shape[1])
    return shares


def _fill_abstentions(votes: Mapping[str, Floats], rows: slice | Ints) -> Floats:
    """Stack the probabilities of some clips, (S, m, K), with zeros for abstentions."""
    probs = np.stack([np.asarray(source[rows], np.float64) for source in votes.values()])
    filled: Floats = np.where(np.isnan(probs).any(axis=2, keepdims=True), 0.0, probs)
    return filled


def _ballots(probs: Floats) -> Floats:
    """Return hard votes, (S, n, K): one-hot rows, shared between equally probable labels, zeros for abstentions."""
    highest = probs.max(axis=2, keepdims=True)
    ballots = ((probs >= highest - _TOLERANCE) & (highest > 0)).astype(np.float64)
    total = ballots.sum(axis=2, keepdims=True)
    shared: Floats = ballots / np.where(total > 0, total, 1.0)
    return shared


def _highest(scores: Floats, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the candidates with the highest score in their row, (n, K)."""
    compared = np.where(candidates, scores, -np.inf)
    highest: NDArray[np.bool_] = candidates & (compared >= compared.max(axis=1, keepdims=True) - _TOLERANCE)
    return highest
