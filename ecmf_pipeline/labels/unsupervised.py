"""Combine votes without any gold label.

Dawid and Skene's model learns from hard votes how reliable each source is for each class. Its labels then train a
log-linear pool of the soft votes, which learns how far to trust the probabilities of each source. The result is the
product of three: Dawid-Skene, the pool, and the mean of the probabilities, which limits the damage of sources that make
the same errors. If too few sources err independently, majority vote is used instead. On ``tools.bench.labels`` each
part alone falls below majority vote in some settings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.dawid_skene import DawidSkene, VotePatterns, fit, posterior_mean, sample_clips, vote_patterns
from ecmf_pipeline.labels.votes import ABSTAIN, Evidence, blocks, error_correlations, fit_log_pool

STRENGTH = 60.0
"""Weight of the Dirichlet prior of each confusion row, in clips."""

EXPERT_STRENGTH = 20.0
"""The same if gold labels decide the weight of the result."""

MIN_INDEPENDENT = 2.8
"""Below this effective number of independent sources, majority vote is used; see `independent_sources`."""

MIN_INDEPENDENT_TWO_CLASSES = 4.4
"""The same for two classes, where all wrong votes agree with each other and agreement is weaker evidence."""

MAX_UNSTABLE_SHARE = 0.12
"""Above this share of labels that depend on a single source, majority vote is used; see `unstable_share`."""

STABILITY_SAMPLE = 20_000
"""Maximum number of clips for that check, which fits the model once per source."""

POOL_SAMPLE = 5000
"""Maximum number of clips that train the pool, which has one parameter per source and class."""

_TIE_TOLERANCE = 1e-6
"""A vote with a smaller difference between its other labels carries no more information than a hard vote."""

MIN_SOURCES = 3
"""With two sources that disagree, nothing shows which one is correct: their probabilities are averaged."""

MIN_SOURCES_TO_CHECK = 4
"""With three sources, two that make the same errors look correct, and the votes alone cannot show it."""


def combine_without_gold(
    evidence: Evidence, votes: VotePatterns, majority: Floats, rng: np.random.Generator
) -> tuple[Floats, str]:
    """Combine votes without gold labels; rows where all sources abstain get the class shares.

    Votes alone show which sources are correct only if enough sources err independently. If too few do, sources that
    make the same errors look correct and the others look wrong. In this case majority vote is used.

    Args:
        evidence: The votes.
        votes: Their patterns.
        majority: Vote shares, (n, K).
        rng: Draws the clips that train the pool and those that check the model.

    Returns:
        Probabilities, (n, K), and a description of the method.
    """
    if evidence.logs.shape[1] >= MIN_SOURCES and not evidence.all_abstain.all():
        reason = _reason_to_distrust(evidence, majority, np.random.default_rng(rng.integers(2**63)))
        if reason:
            return _fill_abstentions(majority, evidence, f"majority vote ({reason})")
    return _combine(evidence, votes, rng, STRENGTH)


def _reason_to_distrust(evidence: Evidence, majority: Floats, rng: np.random.Generator) -> str:
    """Return why Dawid and Skene's model cannot be trusted; empty if nothing contradicts it."""
    _, sources, classes = evidence.logs.shape
    if sources < MIN_SOURCES_TO_CHECK:
        return f"{sources} of {MIN_SOURCES_TO_CHECK} sources needed to show which one is right"
    n_independent = independent_sources(evidence, majority)
    needed = MIN_INDEPENDENT if classes > 2 else MIN_INDEPENDENT_TWO_CLASSES
    if n_independent < needed:
        return f"the errors of the sources are correlated: {n_independent:.1f} of {needed:g} needed independent sources"
    share = unstable_share(evidence.hard_votes, classes, rng)
    if share > MAX_UNSTABLE_SHARE:
        return f"{share:.0%} of the labels depend on a single source"
    return ""


def unsupervised_expert(evidence: Evidence, votes: VotePatterns, rng: np.random.Generator) -> Floats:
    """Return probabilities, (n, K), for a blend whose weights are fitted to gold labels.

    The prior is weaker than in `combine_without_gold`, because gold labels correct the result.
    """
    return _combine(evidence, votes, rng, EXPERT_STRENGTH)[0]


def independent_sources(evidence: Evidence, truth: Floats) -> float:
    """Return the effective number of independent sources, given probabilities of the true label, (n, K).

    This is S divided by the mean, over sources, of the summed error correlations.
    """
    # NaN: two sources without a common clip show no correlation.
    correlations = np.clip(np.nan_to_num(error_correlations(evidence.hard_votes, truth)), 0.0, 1.0)
    np.fill_diagonal(correlations, 1.0)
    return float(len(correlations) / correlations.sum(axis=1).mean())


def unstable_share(hard_votes: Ints, classes: int, rng: np.random.Generator) -> float:
    """Return the share of Dawid-Skene labels that change if one source is left out, as a mean over sources.

    The source that changes most is ignored, because it may be the best one.

    Args:
        hard_votes: Hard votes, (n, S).
        classes: K.
        rng: Draws `STABILITY_SAMPLE` clips if there are more.
    """
    if len(hard_votes) > STABILITY_SAMPLE:
        hard_votes = hard_votes[rng.permutation(len(hard_votes))[:STABILITY_SAMPLE]]
    labels = _labels(hard_votes, classes)
    changed = []
    for source in range(hard_votes.shape[1]):
        others = np.delete(hard_votes, source, axis=1)
        voted = (others != ABSTAIN).any(axis=1)
        changed.append(float((_labels(others[voted], classes) != labels[voted]).mean()) if voted.any() else 0.0)
    return float(np.mean(sorted(changed)[:-1]))


def _labels(hard_votes: Ints, classes: int) -> Ints:
    votes = vote_patterns(hard_votes, classes)
    model = _from_majority(votes, (hard_votes != ABSTAIN).any(axis=1), STRENGTH)
    labels: Ints = model.scores(votes.rows).argmax(axis=1)[votes.pattern]
    return labels


def _combine(evidence: Evidence, votes: VotePatterns, rng: np.random.Generator, strength: float) -> tuple[Floats, str]:
    mean = _mean_probs(evidence)
    voted = ~evidence.all_abstain
    if evidence.logs.shape[1] < MIN_SOURCES or not voted.any():
        return _fill_abstentions(mean, evidence, "mean of the probabilities")
    model = _from_majority(votes, sample_clips(voted, rng), strength)
    dawid_skene_probs = softmax(model.scores(votes.rows), axis=1)[votes.pattern]  # (n, K)
    training = np.flatnonzero(voted)
    if len(training) > POOL_SAMPLE:
        training = rng.permutation(training)[:POOL_SAMPLE]
    bias = np.zeros(dawid_skene_probs.shape[1])
    pool = fit_log_pool(
        evidence.logs[training], dawid_skene_probs[training], total=1.2, weight_spread=0.5, bias=bias, bias_spread=1.0
    )
    soft = pool.log_probs(evidence.logs) + np.log(mean + 1e-3)
    share = _soft_share(evidence) / 2
    probs = softmax((1 - share) * np.log(dawid_skene_probs + 1e-9) + share * soft, axis=1)
    return _fill_abstentions(probs, evidence, "product of Dawid-Skene, a pool trained on it, and the mean")


def _fill_abstentions(probs: Floats, evidence: Evidence, method: str) -> tuple[Floats, str]:
    voted = ~evidence.all_abstain
    shares = probs[voted].sum(axis=0) + 1.0
    return np.where(voted[:, None], probs, shares / shares.sum()), method


def _from_majority(votes: VotePatterns, voted: NDArray[np.bool_], strength: float) -> DawidSkene:
    sources, classes = votes.shape
    counts = votes.count_clips(voted)
    tally = votes.rows @ np.tile(np.eye(classes), (sources, 1)) + 1e-3  # (u, K)
    expected_clips = counts[:, None] * tally / tally.sum(axis=1, keepdims=True)
    start = posterior_mean(votes.expected_votes(expected_clips), expected_clips.sum(axis=0), strength)
    no_known_counts = np.zeros((sources, classes, classes))
    return fit(votes, counts, no_known_counts, np.zeros(classes), start=start, strength=strength)


def _soft_share(evidence: Evidence) -> float:
    """Return how soft the votes are: 0 for hard votes in any encoding, at most 1.

    One soft vote in five suffices for 1, because sharp probabilities are clipped at the floor and then look like hard
    votes.
    """
    clips, _, classes = evidence.logs.shape
    if classes < 3:  # of two classes, a vote has one other label
        return 1.0
    n_soft = 0
    for rows in blocks(clips):
        ranked = np.sort(evidence.logs[rows][evidence.hard_votes[rows] != ABSTAIN], axis=1)  # log-votes, (votes, K)
        n_soft += int((ranked[:, -2] - ranked[:, 0] > _TIE_TOLERANCE).sum())
    return min(1.0, 5.0 * n_soft / int((evidence.hard_votes != ABSTAIN).sum()))


def _mean_probs(evidence: Evidence) -> Floats:
    clips, _, classes = evidence.logs.shape
    mean = np.empty((clips, classes))
    for rows in blocks(clips):
        voting = evidence.hard_votes[rows] != ABSTAIN
        probs = softmax(evidence.logs[rows], axis=2) * voting[:, :, None]
        mean[rows] = probs.sum(axis=1) / np.maximum(voting.sum(axis=1), 1)[:, None]
    return mean
