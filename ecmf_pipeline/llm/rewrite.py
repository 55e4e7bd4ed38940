"""Enriched transcripts: the original words, and one sentence on how they sound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.llm.config import RewriteConfig
from ecmf_pipeline.llm.prompt import Prompt


def enrich(
    transcript: str, probs: NDArray[np.float64], labels: Sequence[str], *, prompt: Prompt, config: RewriteConfig
) -> str:
    """The transcript with one cue sentence after it.

    The words are worded from the probabilities by fixed rules: a small model's own rewrites invent things that were not
    said, its likelihoods do not.

    Args:
        transcript: The words spoken; they stand in the result as they are.
        probs: Probability of each label, (K,); NaN where the model gave none.
        labels: The labels, (K,).
        prompt: Gives the adjectives and sentences, in its language.
        config: The thresholds.

    Returns:
        The enriched text; "" for a transcript without words, which stays masked.
    """
    if not transcript.strip():
        return ""
    cue = _cue(probs, prompt.adjectives(labels), prompt, config)
    return prompt.wording.enriched.format(text=transcript.strip(), cue=cue)


def _cue(probs: NDArray[np.float64], adjectives: Sequence[str], prompt: Prompt, config: RewriteConfig) -> str:
    """The sentence for these probabilities."""
    wording = prompt.wording
    order = np.argsort(-probs, kind="stable")  # equal probabilities: the earlier label first
    first, second = int(order[0]), int(order[1])
    stands_out = probs[first] >= config.likely and probs[first] - probs[second] >= config.margin
    if not stands_out:  # NaN does not stand out either
        return wording.unclear
    clear = probs[first] >= config.clear
    if probs[second] >= config.second:
        template = wording.clear_second if clear else wording.likely_second
        return template.format(first=adjectives[first], second=adjectives[second])
    return (wording.clear if clear else wording.likely).format(first=adjectives[first])
