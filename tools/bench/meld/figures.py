"""Metrics of predictions on MELD utterances, with bootstrap intervals over dialogues."""

from __future__ import annotations

import numpy as np

from ecmf_pipeline.core.arrays import bootstrap_samples, expected_calibration_error
from ecmf_pipeline.llm.votes import votes_from_scores
from tools.bench.meld.sample import Floats, Ints, Sample

MARGIN = 0.2
"""Default of `vote.llm_margin`: coverage is the share of votes that lead by this margin."""

DRAWS = 2000
_NO_CLASS = -1
"""A class that is never right: its weighted F1 is 0."""

HEADER = (
    f"| {'votes':<52} | weighted F1 | 95% interval | accuracy | log-loss | ECE | coverage | F1 of cast votes |\n"
    f"|{'-' * 54}|---|---|---|---|---|---|---|"
)


def samples_of(first: Ints, second: Ints, sample: Sample, seed: int) -> tuple[float, Floats]:
    """Return the difference in weighted F1 and its bootstrap samples, (DRAWS,); a seed always draws the same dialogues.

    Args:
        first: Predicted classes, (n,).
        second: Predicted classes of the reference, (n,).
        sample: The utterances.
        seed: Seed of the bootstrap.
    """
    as_text = [values.astype(np.str_) for values in (first, second, sample.truth)]
    rng = np.random.default_rng(seed)
    return bootstrap_samples(*as_text, rng=rng, groups=sample.dialogues, draws=DRAWS)


def format_interval(samples: Floats) -> str:
    """Format the 95% interval of bootstrap samples."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return f"[{low:+.3f}, {high:+.3f}]" if low < 0 else f"[{low:.3f}, {high:.3f}]"


def score(predicted: Ints, sample: Sample, seed: int) -> tuple[float, str]:
    """Return weighted F1 and its formatted 95% interval."""
    value, samples = samples_of(predicted, np.full(len(predicted), _NO_CLASS), sample, seed)
    return value, format_interval(samples)


def line(name: str, log_scores: Floats, sample: Sample, seed: int) -> str:
    """Return a row of the table of votes.

    Args:
        name: Source of the votes.
        log_scores: Logits of the classes, (n, K).
        sample: The utterances.
        seed: Seed of the bootstrap.
    """
    probs = votes_from_scores(log_scores, margin=0.0)
    predicted = probs.argmax(axis=1)
    right = predicted == sample.truth
    loss = -np.log(np.maximum(probs[np.arange(len(predicted)), sample.truth], 1e-12)).mean()
    error = expected_calibration_error(probs.max(axis=1), right)
    value, interval = score(predicted, sample, seed)
    cast = np.isfinite(votes_from_scores(log_scores, margin=MARGIN)).all(axis=1)
    f1_of_cast = "-"
    if cast.any():
        f1, cast_interval = score(predicted[cast], sample.only(cast), seed)
        f1_of_cast = f"{f1:.3f} {cast_interval}"
    figures = f"{right.mean():.3f} | {loss:.3f} | {error:.3f} | {cast.mean():.3f}"
    return f"| {name:<52} | {value:.3f} | {interval} | {figures} | {f1_of_cast} |"


def difference(name: str, first: Ints, second: Ints, sample: Sample, seed: int) -> str:
    """Return a row of the table of paired differences."""
    value, samples = samples_of(first, second, sample, seed)
    return f"| {name:<66} | {value:+.3f} | {format_interval(samples)} |"
