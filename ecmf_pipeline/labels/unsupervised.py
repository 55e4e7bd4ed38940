"""Votes combined without any label that is known to be right.

Dawid and Skene's model learns from hard votes who can be trusted with what. What it finds teaches a log-linear pool of
the soft votes how much each source's probabilities mean. The two, and the plain mean of the probabilities, which keeps
them from straying where sources err together, are multiplied; where too few sources err independently the majority
stands. Measured by ``tools.bench.labels``: each alone falls below the majority in some settings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.dawid_skene import Ballots, DawidSkene, ballots, fit, from_counts
from ecmf_pipeline.labels.votes import ABSTAIN, Evidence, error_correlations, fit_log_pool

STRENGTH = 60.0
"""Weight of the prior of a confusion's row, in clips."""

EXPERT_STRENGTH = 20.0
"""The same where gold labels decide how far the result is believed."""

LEAST_INDEPENDENT = 2.8
"""With sources worth fewer than this many independent ones the majority stands: see `independent_sources`."""

LEAST_OF_TWO_CLASSES = 4.4
"""The same of two classes, where all wrong votes are alike and agreement says less."""

MOST_HINGING = 0.12
"""With more of the labels than this hinging on single sources the majority stands: see `hinging`."""

LEFT_OUT_OF = 20_000
"""Most clips by which that is judged: the model is fitted once a source for it."""

TAUGHT = 5000
"""Most clips that teach the pool; it has one number a source and class to learn."""

_EVEN = 1e-6
"""A vote whose other labels are all as probable as one another says no more than its first choice does."""

LEAST_SOURCES = 3
"""Two sources that differ cannot tell which of them is right: their probabilities are averaged."""

LEAST_TO_JUDGE = 4
"""Of three sources two that err together pass for the truth, and nothing in their votes shows it."""


def combine_without_gold(
    evidence: Evidence, votes: Ballots, majority: Floats, rng: np.random.Generator
) -> tuple[Floats, str]:
    """Combine votes whose truth is nowhere known; rows where all abstain get the class shares.

    Whose votes are right can be told from the votes alone only where enough sources err independently: of too few, some
    that err together pass for the truth, and the others for those that err. There the majority stands.

    Args:
        evidence: The votes.
        votes: Their patterns.
        majority: The shares of the votes, (n, K).
        rng: Picks the clips that teach the pool, and those by which the model is judged.

    Returns:
        Probabilities, (n, K), and how they were found, in words.
    """
    if evidence.logs.shape[1] >= LEAST_SOURCES and not evidence.silent.all():
        doubt = _doubt(evidence, majority, np.random.default_rng(rng.integers(2**63)))
        if doubt:
            return _completed(majority, evidence, f"the majority ({doubt})")
    return _model(evidence, votes, rng, STRENGTH)


def _doubt(evidence: Evidence, majority: Floats, rng: np.random.Generator) -> str:
    """Why Dawid and Skene's model is not to be believed, in words; empty where nothing speaks against it."""
    _, sources, classes = evidence.logs.shape
    if sources < LEAST_TO_JUDGE:
        return "three sources are too few to tell who is right"
    worth = independent_sources(evidence, majority)
    if worth < (LEAST_INDEPENDENT if classes > 2 else LEAST_OF_TWO_CLASSES):
        return f"the sources err together, as if they were {worth:.1f}: too few to tell who is right"
    share = hinging(evidence.cast, classes, rng)
    if share > MOST_HINGING:
        return f"with one source less {share:.0%} of the labels would be others: too many to tell who is right"
    return ""


def unsupervised_expert(evidence: Evidence, votes: Ballots, rng: np.random.Generator) -> Floats:
    """What the votes say by themselves, (n, K), for a blend that gold labels weigh: bolder, since they will tell."""
    return _model(evidence, votes, rng, EXPERT_STRENGTH)[0]


def independent_sources(evidence: Evidence, truth: Floats) -> float:
    """How many independent sources the votes are worth, by what is taken for the truth, (n, K).

    It is S over the mean, by source, of the summed error correlations.
    """
    # NaN: two sources that never vote on the same clip cannot be seen to err together.
    correlation = np.clip(np.nan_to_num(error_correlations(evidence.cast, truth)), 0.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return float(len(correlation) / correlation.sum(axis=1).mean())


def hinging(cast: Ints, classes: int, rng: np.random.Generator) -> float:
    """How many labels of Dawid and Skene's model change when a source is left out: a share, the mean over sources.

    The source that changes most does not count: it may be the one that knows. ``cast`` are hard votes, (n, S); ``rng``
    picks `LEFT_OUT_OF` clips where there are more.
    """
    if len(cast) > LEFT_OUT_OF:
        cast = cast[rng.permutation(len(cast))[:LEFT_OUT_OF]]
    labels = _labels(cast, classes)
    changed = []
    for source in range(cast.shape[1]):
        others = np.delete(cast, source, axis=1)
        voted = (others != ABSTAIN).any(axis=1)
        changed.append(float((_labels(others[voted], classes) != labels[voted]).mean()) if voted.any() else 0.0)
    return float(np.mean(sorted(changed)[:-1]))


def _labels(cast: Ints, classes: int) -> Ints:
    votes = ballots(cast, classes)
    model = _from_majority(votes, (cast != ABSTAIN).any(axis=1), STRENGTH)
    labels: Ints = model.scores(votes.rows).argmax(axis=1)[votes.pattern]
    return labels


def _model(evidence: Evidence, votes: Ballots, rng: np.random.Generator, strength: float) -> tuple[Floats, str]:
    mean = _mean_probs(evidence)
    voted = ~evidence.silent
    if evidence.logs.shape[1] < LEAST_SOURCES or not voted.any():
        return _completed(mean, evidence, "the mean of the probabilities")
    model = _from_majority(votes, voted, strength)
    crowd = softmax(model.scores(votes.rows), axis=1)[votes.pattern]  # (n, K)
    taught = np.flatnonzero(voted)
    if len(taught) > TAUGHT:
        taught = rng.permutation(taught)[:TAUGHT]
    bias = np.zeros(crowd.shape[1])
    pool = fit_log_pool(evidence.logs[taught], crowd[taught], total=1.2, weight_spread=0.5, bias=bias, bias_spread=1.0)
    soft = pool.log_probs(evidence.logs) + np.log(mean + 1e-3)
    share = _soft_share(evidence) / 2
    probs = softmax((1 - share) * np.log(crowd + 1e-9) + share * soft, axis=1)
    return _completed(probs, evidence, "Dawid-Skene, a pool it teaches, and the mean")


def _completed(probs: Floats, evidence: Evidence, method: str) -> tuple[Floats, str]:
    voted = ~evidence.silent
    shares = probs[voted].sum(axis=0) + 1.0
    return np.where(voted[:, None], probs, shares / shares.sum()), method


def _from_majority(votes: Ballots, voted: NDArray[np.bool_], strength: float) -> DawidSkene:
    sources, classes = votes.shape
    counts = votes.counted(voted)
    tally = np.asarray(votes.rows.toarray()).reshape(-1, sources, classes).sum(axis=1) + 1e-3  # (u, K)
    expected = counts[:, None] * tally / tally.sum(axis=1, keepdims=True)
    start = from_counts(votes.expected(expected), expected.sum(axis=0), strength)
    nothing = np.zeros((sources, classes, classes))
    return fit(votes, counts, nothing, np.zeros(classes), start=start, strength=strength)


def _soft_share(evidence: Evidence) -> float:
    """How far the votes are probabilities, from 0, where they are one label each however it is written, to 1.

    One soft vote in five is enough: sharp probabilities are cut off at the floor, and look like one label.
    """
    ranked = np.sort(evidence.logs[evidence.cast != ABSTAIN], axis=1)  # centred log-votes, (votes, K)
    if ranked.shape[1] < 3:  # two probabilities tell nothing apart
        return 1.0
    return min(1.0, 5.0 * float(np.mean(ranked[:, -2] - ranked[:, 0] > _EVEN)))


def _mean_probs(evidence: Evidence) -> Floats:
    voting = evidence.cast != ABSTAIN
    probs = softmax(evidence.logs, axis=2) * voting[:, :, None]
    total = np.maximum(voting.sum(axis=1), 1)[:, None]
    mean: Floats = probs.sum(axis=1) / total
    return mean
