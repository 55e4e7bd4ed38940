"""."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.llm.prompt import Prompt
from ecmf_pipeline.llm.scoring import probabilities

SHORTEST, LONGEST = 12, 120
"""Characters of an example: too short ones say nothing, long ones cost on every request."""


def prompts_by_fold(
    prompt: Prompt,
    texts: Sequence[str],
    given: NDArray[np.int64],
    labels: Sequence[str],
    folds: NDArray[np.int64],
    *,
    seed: int,
) -> dict[int, Prompt]:
    """For the clips of each fold, the prompt with an example a label from clips of the other folds.

    Neither a clip nor another of its group ever stands in the prompt it is judged by, nor words that any clip of the
    fold says: they would come with another clip's label. Only given labels are read.

    Args:
        prompt: Whose examples are replaced; it keeps its own for labels without a clip that would do.
        texts: What each clip says, (n,).
        given: Index of each clip's given label, (n,); -1 where it has none.
        labels: The labels, (K,).
        folds: Fold of each clip, (n,); no group stands in two.
        seed: Draws the examples.
    """
    fits = np.array([SHORTEST <= len(text.strip()) <= LONGEST for text in texts])
    said = [text.strip().casefold() for text in texts]
    prompts = {}
    for fold in np.unique(folds):
        judged = {plain for plain, own in zip(said, folds, strict=True) if own == fold}
        elsewhere = np.array([plain not in judged for plain in said])
        rng = np.random.default_rng([seed, int(fold)])
        examples = {}
        for index, label in enumerate(labels):
            candidates = np.flatnonzero(fits & (given == index) & (folds != fold) & elsewhere)
            if len(candidates):
                examples[label] = texts[int(rng.choice(candidates))]
        prompts[int(fold)] = prompt.with_examples(examples)
    return prompts


def votes_from_scores(
    scores: NDArray[np.float64], *, margin: float, temperature: float | NDArray[np.float64] = 1.0
) -> NDArray[np.float64]:
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
