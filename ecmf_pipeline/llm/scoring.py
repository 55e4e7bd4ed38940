"""Scores of many utterances, each asked once, and what they amount to: probabilities and votes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.llm.cache import DIGITS, ScoreCache
from ecmf_pipeline.llm.client import LabelScorer
from ecmf_pipeline.progress import progress_bar


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a list of utterances.

    Attributes:
        values: Calibrated log-scores, (n, K); NaN where there are no words.
        asked: How many texts the model was asked.
        cached: How many texts were answered from the cache.
        empty: How many utterances have no words.
        truncated: How many of the texts asked were too long and cut.
    """

    values: NDArray[np.float64]
    asked: int
    cached: int
    empty: int
    truncated: int


def scored(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    scorer: Callable[[], LabelScorer],
    cache: ScoreCache,
    commit_every: int = 192,
) -> Scored:
    """Score each utterance, asking the model only what the cache does not know.

    Equal texts are asked once. What is done is committed every ``commit_every`` texts, so an interrupted run asks only
    the rest when it is repeated.

    Args:
        texts: Utterances, (n,); blank ones are not asked.
        labels: Labels to choose from, (K,).
        scorer: Builds the model; not called when the cache knows everything.
        cache: Scores already paid for, of the same model, prompt and labels.
        commit_every: Texts between two commits.
    """
    spoken = [text for text in texts if text.strip()]
    unique = list(dict.fromkeys(spoken))
    known = cache.get_many(unique)
    missing = [text for text in unique if text not in known]
    truncated = 0
    if missing:
        model = scorer()
        before = model.truncated
        with progress_bar("llm", len(unique), initial=len(known), unit="text") as bar:
            for start in range(0, len(missing), commit_every):
                part = missing[start : start + commit_every]
                fresh = dict(zip(part, np.round(model.score(part, labels), DIGITS), strict=True))
                cache.put_many(fresh)
                known.update(fresh)
                bar.update(len(part))
        truncated = model.truncated - before
    values = np.full((len(texts), len(labels)), np.nan)
    for row, text in enumerate(texts):
        if text.strip():
            values[row] = known[text]
    return Scored(values, len(missing), len(unique) - len(missing), len(texts) - len(spoken), truncated)


def probabilities(scores: NDArray[np.float64], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax over the labels, (n, K); rows of NaN stay NaN.

    Args:
        scores: Log-scores, (n, K).
        temperature: Divides the scores first: above 1 flattens, below 1 sharpens.
    """
    scaled = scores / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = scaled / scaled.sum(axis=1, keepdims=True)
    return normalised


def votes_from_scores(scores: NDArray[np.float64], *, margin: float, temperature: float = 1.0) -> NDArray[np.float64]:
    """The LLM's votes as probabilities, (n, K), with rows of NaN where it abstains.

    It abstains where there are no words (a NaN row of scores) and where the first label leads the second by less than
    ``margin`` in probability.

    Args:
        scores: Calibrated log-scores, (n, K), K >= 2.
        margin: The least lead.
        temperature: Divides the scores before they become probabilities.
    """
    votes = probabilities(scores, temperature=temperature)
    ordered = np.sort(votes, axis=1)
    lead = ordered[:, -1] - ordered[:, -2]
    votes[~(lead >= margin)] = np.nan  # written so that a NaN lead abstains too
    return votes
