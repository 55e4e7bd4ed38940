"""The LLM's votes: label scores of what clips say, calibrated on labelled clips of other folds, with abstentions.

A temperature says how far the scores are to be believed at all; a bias for each label says how much more often it is
meant than the model would have it. The model leans to some words whatever it reads; texts without content tell only a
part of that, and nothing of how often a corpus has each label.

Sources: Guo et al. 2017, arXiv 1706.04599 (temperature, and the bias of its vector scaling); Zhao et al. 2021, arXiv
2102.09690, and Zhou et al. 2023, arXiv 2309.17249 (the lean of a language model).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ecmf_pipeline.llm.answers import ScoreBooks
from ecmf_pipeline.llm.config import LlmConfig, LlmVotesConfig
from ecmf_pipeline.llm.cues import count_words
from ecmf_pipeline.llm.prompt import Prompt, load_prompt
from ecmf_pipeline.llm.scoring import Scored, label_scores, probabilities
from ecmf_pipeline.llm.server_run import Budget

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SHORTEST, LONGEST = 12, 120
"""Characters of an example: too short ones say nothing, long ones cost on every request."""
LEAST_LABELLED = 30
"""Fewer scored clips with a label say too little; the scores are then left as they are."""
TEMPERATURE_SPREAD = 0.3
"""Standard deviation of the logarithm of the temperature around 0, before a label is seen."""
BIAS_SPREAD = 0.5
"""Standard deviation of each label's bias around 0, before a label is seen: few labels move it little.

Both were chosen on MELD's train and dev parts. With 1 and 1, thirty labels made the log-loss as much better, but one
draw of them in twenty cost 0.12 of weighted F1; with these it costs 0.01 (`tools.bench.meld` measures it).
"""
_LOWEST, _HIGHEST = 0.05, 20.0


def word_scores(
    config: LlmConfig,
    texts: Mapping[str, str],
    labels: Sequence[str],
    given: Ints,
    folds: Ints,
    *,
    seed: int,
    books: ScoreBooks,
    budget: Budget | None = None,
) -> Scored:
    """The label scores of what clips say, (n, K); with examples of the corpus, each fold is asked by its own prompt.

    Args:
        config: As `label_scores` has it, like texts, labels, books and budget.
        texts: What each clip says, by clip id, (n,).
        labels: The labels, (K,).
        given: As `prompts_by_fold` has it, like folds and seed.
        folds: Fold of each clip, (n,).
        seed: Draws the examples.
        books: Where the stage keeps what it has asked.
        budget: What may still be sent to a server.
    """
    if config.votes.examples == "packaged":
        return label_scores(config, texts, labels, books=books, budget=budget)
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
            budget=budget,
        )
        values[rows] = some.values
        found.append(some)
    counts = {
        name: sum(getattr(some, name) for some in found)
        for name in ("asked", "cached", "empty", "truncated", "quarantined", "invalid")
    }
    return Scored(values, **counts)


def prompts_by_fold(
    prompt: Prompt,
    texts: Sequence[str],
    given: Ints,
    labels: Sequence[str],
    folds: Ints,
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
    scores: Floats,
    given: Ints,
    folds: Ints,
    config: LlmVotesConfig,
    *,
    margin: float,
) -> tuple[Floats, Sequence[LabelCalibration]]:
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


def votes_from_scores(scores: Floats, *, margin: float) -> Floats:
    """The LLM's votes as probabilities, (n, K), with rows of NaN where it abstains.

    It abstains where there are no words (a NaN row of scores) and where the first label leads the second by less than
    ``margin`` in probability.

    Args:
        scores: Calibrated log-scores, (n, K), K >= 2.
        margin: The least lead.
    """
    votes = probabilities(scores)
    ordered = np.sort(votes, axis=1)
    lead = ordered[:, -1] - ordered[:, -2]
    votes[~(lead >= margin)] = np.nan  # written so that a NaN lead abstains too
    return votes


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


@dataclass(frozen=True, slots=True)
class LabelCalibration:
    """What is done to the scores before they become probabilities.

    Attributes:
        temperature: Divides them.
        bias: Is then added to each label's, (K,); its mean is 0.
        labelled: How many labelled clips it was fitted on; 0 where it was not fitted.
    """

    temperature: float
    bias: Floats
    labelled: int = 0

    def __call__(self, scores: Floats) -> Floats:
        """Log-scores, (n, K), whose softmax are the calibrated probabilities; rows of NaN stay NaN.

        Args:
            scores: Log-scores, (n, K).
        """
        return scores / self.temperature + self.bias


def fit_calibration(
    scores: Floats, labels: Ints, *, temperature: float | None = None, bias: bool = True
) -> LabelCalibration:
    """The temperature and bias under which the labels are likeliest, given what is expected of them beforehand.

    Args:
        scores: Log-scores, (n, K); rows of NaN are passed over.
        labels: Index of each clip's label, (n,); -1 where it has none.
        temperature: Is kept as it is; None: fitted, from 0.05 to 20.
        bias: Whether each label has a bias; without, the choice of each clip stays what it is.

    Returns:
        The calibration; ``temperature`` (1 for None) and no bias where fewer than `LEAST_LABELLED` clips have both
        scores and a label.
    """
    classes = scores.shape[1]
    usable = (labels >= 0) & np.isfinite(scores).all(axis=1)
    if usable.sum() < LEAST_LABELLED or (temperature is not None and not bias):
        return LabelCalibration(1.0 if temperature is None else temperature, np.zeros(classes))
    some, truth = scores[usable], labels[usable]
    rows = np.arange(len(truth))

    def loss(parameters: Floats) -> tuple[float, Floats]:
        """Negative log-posterior and its gradient; parameters: log-temperature, then the biases, (1 + K,)."""
        scaled = some * np.exp(-parameters[0])
        logits = scaled + parameters[1:]  # (m, K)
        logits = logits - logits.max(axis=1, keepdims=True)
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        error = np.exp(log_probs)
        error[rows, truth] -= 1.0
        gradient = np.concatenate([[-(error * scaled).sum()], error.sum(axis=0)])
        spread = np.array([TEMPERATURE_SPREAD, *[BIAS_SPREAD] * classes])
        prior = parameters / spread**2
        return float(-log_probs[rows, truth].sum() + 0.5 * (parameters * prior).sum()), gradient + prior

    fixed = None if temperature is None else float(np.log(temperature))
    first = (np.log(_LOWEST), np.log(_HIGHEST)) if fixed is None else (fixed, fixed)
    bounds = [first, *[(None, None) if bias else (0.0, 0.0)] * classes]
    start = np.zeros(1 + classes)
    start[0] = fixed or 0.0
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return LabelCalibration(float(np.exp(found[0])), found[1:] - found[1:].mean(), int(usable.sum()))


def held_out_calibrations(
    scores: Floats, labels: Ints, folds: Ints, *, temperature: float | None = None, bias: bool = True
) -> tuple[Floats, Sequence[LabelCalibration]]:
    """The calibrated log-scores of each clip, (n, K), fitted on the labelled clips of the other folds alone.

    Args:
        scores: Log-scores, (n, K).
        labels: Index of each clip's given label, (n,); -1 where it has none.
        folds: Fold of each clip, (n,); no group stands in two.
        temperature: As `fit_calibration` has it.
        bias: As `fit_calibration` has it.

    Returns:
        The log-scores, and the calibration of each fold.
    """
    values, fitted = np.full_like(scores, np.nan), []
    for fold in np.unique(folds):
        inside = folds == fold
        fitted.append(fit_calibration(scores[~inside], labels[~inside], temperature=temperature, bias=bias))
        values[inside] = fitted[-1](scores[inside])
    return values, fitted
