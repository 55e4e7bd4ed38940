"""Figures of choices and probabilities on MELD's utterances, with intervals that draw whole dialogues."""

from __future__ import annotations

import numpy as np

from ecmf_pipeline.core.arrays import bootstrap_samples, expected_calibration_error
from ecmf_pipeline.llm.votes import votes_from_scores
from tools.bench.meld.sample import Floats, Ints, Sample

MARGIN = 0.2
"""The default of `vote.llm_margin`: coverage is the share of votes that lead by it."""

DRAWS = 2000
_NOBODY = -1
"""A choice that is never right: its weighted F1 is 0."""

HEADER = (
    f"| {'votes':<52} | weighted F1 | 95% interval | accuracy | log-loss | ECE | coverage | F1 where cast |\n"
    f"|{'-' * 54}|---|---|---|---|---|---|---|"
)


def samples_of(first: Ints, second: Ints, sample: Sample, seed: int) -> tuple[float, Floats]:
    """Difference in weighted F1 and its bootstrap samples, (DRAWS,): the same dialogues for the same seed.

    Args:
        first: Choices, (n,).
        second: Choices they are compared with, (n,).
        sample: The utterances.
        seed: Draws the dialogues.
    """
    as_text = [values.astype(np.str_) for values in (first, second, sample.truth)]
    rng = np.random.default_rng(seed)
    return bootstrap_samples(*as_text, rng=rng, groups=sample.dialogues, draws=DRAWS)


def told(samples: Floats) -> str:
    """The 95% interval in words."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return f"[{low:+.3f}, {high:+.3f}]" if low < 0 else f"[{low:.3f}, {high:.3f}]"


def score(chosen: Ints, sample: Sample, seed: int) -> tuple[float, str]:
    """Weighted F1 and its interval."""
    value, samples = samples_of(chosen, np.full(len(chosen), _NOBODY), sample, seed)
    return value, told(samples)


def line(name: str, log_scores: Floats, sample: Sample, seed: int) -> str:
    """One row of the table of votes.

    Args:
        name: Whose votes.
        log_scores: Scores whose softmax are the probabilities, (n, K).
        sample: The utterances.
        seed: Draws the dialogues.
    """
    probs = votes_from_scores(log_scores, margin=0.0)
    chosen = probs.argmax(axis=1)
    right = chosen == sample.truth
    loss = -np.log(np.maximum(probs[np.arange(len(chosen)), sample.truth], 1e-12)).mean()
    error = expected_calibration_error(probs.max(axis=1), right)
    value, interval = score(chosen, sample, seed)
    cast = np.isfinite(votes_from_scores(log_scores, margin=MARGIN)).all(axis=1)
    where_cast = "-"
    if cast.any():
        f1, over = score(chosen[cast], sample.only(cast), seed)
        where_cast = f"{f1:.3f} {over}"
    figures = f"{right.mean():.3f} | {loss:.3f} | {error:.3f} | {cast.mean():.3f}"
    return f"| {name:<52} | {value:.3f} | {interval} | {figures} | {where_cast} |"


def difference(name: str, first: Ints, second: Ints, sample: Sample, seed: int) -> str:
    """One row of a table of paired differences."""
    value, samples = samples_of(first, second, sample, seed)
    return f"| {name:<66} | {value:+.3f} | {told(samples)} |"
