"""The LLM's votes: label scores of what clips say, calibrated on labels of other folds, with abstentions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.llm.budget import Budget
from ecmf_pipeline.llm.calibration import LabelCalibration, held_out_calibrations
from ecmf_pipeline.llm.config import LlmConfig, LlmVotesConfig
from ecmf_pipeline.llm.cues import count_words
from ecmf_pipeline.llm.prompt import Prompt, load_prompt
from ecmf_pipeline.llm.run import ScoreBooks
from ecmf_pipeline.llm.scoring import Scored, label_scores, probabilities

SHORTEST, LONGEST = 12, 120
"""Characters of an example: too short ones say nothing, long ones cost on every request."""


def word_scores(
    config: LlmConfig,
    texts: Mapping[str, str],
    labels: Sequence[str],
    given: NDArray[np.int64],
    folds: NDArray[np.int64],
    *,
    seed: int,
    books: ScoreBooks,
    retry_quarantined: bool = False,
    budget: Budget | None = None,
) -> Scored:
    """The label scores of what clips say, (n, K); with examples of the corpus, each fold is asked by its own prompt.

    Args:
        config: The model and what it is asked.
        texts: What each clip says, by clip id, (n,); blank ones are not asked.
        labels: Labels to choose from, (K,).
        given: Index of each clip's given label, (n,); -1 where it has none.
        folds: Fold of each clip, (n,); no group stands in two.
        seed: Draws the examples.
        books: Where the stage keeps what it has asked.
        retry_quarantined: Whether texts that were set aside are tried again although nothing changed.
        budget: What may still be sent to a server; None: as ``config`` says.
    """
    if config.votes.examples == "packaged":
        return label_scores(config, texts, labels, books=books, retry_quarantined=retry_quarantined, budget=budget)
    clip_ids, said = list(texts), list(texts.values())
    found = []
    values = np.full((len(texts), len(labels)), np.nan)
    for fold, prompt in prompts_by_fold(load_prompt(config.prompt), said, given, labels, folds, seed=seed).items():
        rows = np.flatnonzero(folds == fold)
        # A table for each: what was set aside under one prompt says nothing of another.
        own = replace(books, quarantine=books.quarantine.with_name(f"{books.stage}-examples-{fold}.csv"))
        some = label_scores(
            config,
            {clip_ids[row]: said[row] for row in rows},
            labels,
            books=own,
            prompt=prompt,
            retry_quarantined=retry_quarantined,
            budget=budget,
        )
        values[rows] = some.values
        found.append(some)
    counts = {
        name: sum(getattr(some, name) for some in found)
        for name in ("asked", "cached", "empty", "truncated", "quarantined", "damaged", "invalid")
    }
    return Scored(values, **counts)


def without_short(found: Scored, texts: Sequence[str], least: int) -> tuple[Scored, int]:
    """The scores without those of transcripts of one word or so: what the model says of them is its habit.

    Args:
        found: The scores, (n, K).
        texts: The transcripts, (n,).
        least: The fewest words (of Chinese: characters).

    Returns:
        The scores, and of how many clips they were taken out.
    """
    short = np.array([count_words(text) < least for text in texts]) & np.isfinite(found.values).all(axis=1)
    return replace(found, values=np.where(short[:, None], np.nan, found.values)), int(short.sum())


def calibrated_votes(
    scores: NDArray[np.float64],
    given: NDArray[np.int64],
    folds: NDArray[np.int64],
    config: LlmVotesConfig,
    *,
    margin: float,
) -> tuple[NDArray[np.float64], Sequence[LabelCalibration]]:
    """Votes of scores that are calibrated on the given labels of other folds; gold labels have no part.

    Args:
        scores: Label scores, (n, K), rows of NaN where there are none.
        given: Index of each clip's given label, (n,); -1 where it has none.
        folds: Fold of each clip, (n,).
        config: What is fitted.
        margin: The least lead of the first label over the second.

    Returns:
        Probabilities, (n, K), rows of NaN where it abstains, and the calibration of each fold.
    """
    temperature = None if config.temperature == "fitted" else config.temperature
    values, fitted = held_out_calibrations(scores, given, folds, temperature=temperature, bias=config.bias == "fitted")
    return votes_from_scores(values, margin=margin), fitted


def calibration_summary(fitted: Sequence[LabelCalibration]) -> str:
    """What the calibrations of the folds were fitted on, for people."""
    counts = [calibration.labelled for calibration in fitted]
    temperatures = [calibration.temperature for calibration in fitted]
    if not max(counts, default=0):
        return "not calibrated on labels (turned off, or too few labelled clips in the other folds that it has scored)"
    return (
        f"calibrated for each fold on {min(counts)} to {max(counts)} labelled clips of the others; "
        f"folds left as they are: {counts.count(0)} (temperature {min(temperatures):.2f} to {max(temperatures):.2f})"
    )


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
