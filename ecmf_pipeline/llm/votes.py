"""Votes of the language model: label scores calibrated on labelled clips of other folds, with abstentions.

The temperature scales the confidence of the scores. The bias of each label corrects how often the model chooses it: a
language model prefers some words for any input. Texts without content measure only a part of this preference, and
not the frequency of the labels in the corpus.

Sources: Guo et al. 2017, arXiv 1706.04599 (temperature, and the bias of its vector scaling); Zhao et al. 2021, arXiv
2102.09690, and Zhou et al. 2023, arXiv 2309.17249 (bias of a language model).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ecmf_pipeline.llm.answers import AnswerFiles
from ecmf_pipeline.llm.config import LlmConfig, LlmVotesConfig
from ecmf_pipeline.llm.cues import count_words
from ecmf_pipeline.llm.prompt import Prompt, load_prompt
from ecmf_pipeline.llm.scoring import ScoringResult, label_scores, probabilities
from ecmf_pipeline.llm.server_run import Budget
from ecmf_pipeline.runner import Engine

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MIN_EXAMPLE_LENGTH = 12
MAX_EXAMPLE_LENGTH = 120
"""Length of an example in characters: shorter ones are not informative, longer ones add cost to every request."""
MIN_LABELLED = 30
"""Minimum number of scored clips with a label; with fewer, the scores are not calibrated."""
TEMPERATURE_PRIOR_STD = 0.3
"""Standard deviation of the prior of the log-temperature, with mean 0."""
BIAS_PRIOR_STD = 0.5
"""Standard deviation of the prior of each bias, with mean 0: few labels change the bias little.

Both were chosen on the train and dev parts of MELD. With 1 and 1, thirty labels improved the log-loss as much, but one
draw of them in twenty lost 0.12 of weighted F1; with these values it loses 0.01 (`tools.bench.meld` measures it).
"""
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.05, 20.0


def transcript_scores(
    config: LlmConfig,
    texts: Mapping[str, str],
    labels: Sequence[str],
    given_labels: Ints,
    folds: Ints,
    *,
    seed: int,
    answer_files: AnswerFiles,
    engine: Engine | None = None,
    budget: Budget | None = None,
) -> ScoringResult:
    """Return the label scores of transcripts, (n, K); with examples of the corpus, each fold has its own prompt.

    Args:
        config: See `label_scores`, also for texts, labels, books and budget.
        texts: Transcript of each clip, by clip id, (n,).
        labels: The labels, (K,).
        given_labels: See `prompts_by_fold`, also for folds and seed.
        folds: Fold of each clip, (n,).
        seed: Seed of the drawn examples.
        answer_files: Files of the stage.
        engine: Runs the workers; None: processes of this machine, according to ``config``.
        budget: Limits of the requests to a server.
    """
    if config.votes.examples == "packaged":
        return label_scores(config, texts, labels, answer_files=answer_files, engine=engine, budget=budget)
    clip_ids, transcripts = list(texts), list(texts.values())
    results = []
    values = np.full((len(texts), len(labels)), np.nan)
    packaged = load_prompt(config.prompt)
    for fold, prompt in prompts_by_fold(packaged, transcripts, given_labels, labels, folds, seed=seed).items():
        rows = np.flatnonzero(folds == fold)
        # Texts are quarantined for one prompt, so each prompt has its own table.
        table = answer_files.quarantine.with_name(f"{answer_files.stage}-examples-{fold}.csv")
        result = label_scores(
            config,
            {clip_ids[row]: transcripts[row] for row in rows},
            labels,
            answer_files=replace(answer_files, quarantine=table),
            prompt=prompt,
            engine=engine,
            budget=budget,
        )
        values[rows] = result.values
        results.append(result)
    counts = {
        name: sum(getattr(result, name) for result in results)
        for name in ("answered", "cached", "empty", "truncated", "quarantined", "invalid")
    }
    return ScoringResult(values, **counts)


def prompts_by_fold(
    prompt: Prompt,
    texts: Sequence[str],
    given_labels: Ints,
    labels: Sequence[str],
    folds: Ints,
    *,
    seed: int,
) -> dict[int, Prompt]:
    """Return for each fold the prompt with an example of each label from clips of the other folds.

    A prompt for a clip contains neither the clip nor another clip of its group, nor the words of any clip of its fold:
    they would carry the label of another clip. Only given labels are read.

    Args:
        prompt: The prompt; it keeps its example of a label without a suitable clip.
        texts: Transcript of each clip, (n,).
        given_labels: Index of the given label of each clip, (n,); -1 without a label.
        labels: The labels, (K,).
        folds: Fold of each clip, (n,); no group is in two folds.
        seed: Seed of the drawn examples.
    """
    suitable = np.array([MIN_EXAMPLE_LENGTH <= len(text.strip()) <= MAX_EXAMPLE_LENGTH for text in texts])
    normalised = [text.strip().casefold() for text in texts]
    prompts = {}
    for fold in np.unique(folds):
        texts_of_fold = {text for text, clip_fold in zip(normalised, folds, strict=True) if clip_fold == fold}
        is_other_text = np.array([text not in texts_of_fold for text in normalised])
        rng = np.random.default_rng([seed, int(fold)])
        examples = {}
        for index, label in enumerate(labels):
            candidates = np.flatnonzero(suitable & (given_labels == index) & (folds != fold) & is_other_text)
            if len(candidates):
                examples[label] = texts[int(rng.choice(candidates))]
        prompts[int(fold)] = prompt.with_examples(examples)
    return prompts


def drop_short_transcripts(scores: ScoringResult, texts: Sequence[str], min_words: int) -> tuple[ScoringResult, int]:
    """Remove the scores of very short transcripts: the model predicts its preferred labels for them.

    Args:
        scores: The scores, (n, K).
        texts: The transcripts, (n,).
        min_words: Minimum number of words (Chinese: characters).

    Returns:
        The scores, and the number of clips whose scores were removed.
    """
    short = np.array([count_words(text) < min_words for text in texts]) & np.isfinite(scores.values).all(axis=1)
    return replace(scores, values=np.where(short[:, None], np.nan, scores.values)), int(short.sum())


def calibrated_votes(
    scores: Floats,
    given_labels: Ints,
    folds: Ints,
    config: LlmVotesConfig,
    *,
    margin: float,
) -> tuple[Floats, Sequence[LabelCalibration]]:
    """Return votes from scores calibrated on the given labels of other folds; gold labels are not used.

    Args:
        scores: Label scores, (n, K), rows of NaN without scores.
        given_labels: Index of the given label of each clip, (n,); -1 without a label.
        folds: Fold of each clip, (n,).
        config: Settings of the calibration.
        margin: Minimum lead of the first label over the second.

    Returns:
        Probabilities, (n, K), rows of NaN for abstentions, and the calibration of each fold.
    """
    temperature = None if config.temperature == "fitted" else config.temperature
    values, fitted = held_out_calibrations(
        scores, given_labels, folds, temperature=temperature, bias=config.bias == "fitted"
    )
    return votes_from_scores(values, margin=margin), fitted


def votes_from_scores(scores: Floats, *, margin: float) -> Floats:
    """Return the votes as probabilities, (n, K), with rows of NaN for abstentions.

    The model abstains on clips without scores (a row of NaN), and if the first label leads the second by less than
    ``margin`` in probability.

    Args:
        scores: Calibrated log-scores, (n, K), K >= 2.
        margin: Minimum lead.
    """
    votes = probabilities(scores)
    ordered = np.sort(votes, axis=1)
    lead = ordered[:, -1] - ordered[:, -2]
    votes[~(lead >= margin)] = np.nan  # also for a lead of NaN
    return votes


def calibration_summary(fitted: Sequence[LabelCalibration]) -> str:
    """Describe the calibrations of the folds in one line."""
    counts = [calibration.labelled for calibration in fitted]
    temperatures = [calibration.temperature for calibration in fitted]
    if not max(counts, default=0):
        return "is not calibrated on labels: calibration is off, or there are too few labelled clips in other folds"
    return (
        f"is calibrated for each fold on {min(counts)} to {max(counts)} labelled clips of the other folds "
        f"(temperature {min(temperatures):.2f} to {max(temperatures):.2f}); uncalibrated folds: {counts.count(0)}"
    )


@dataclass(frozen=True, slots=True)
class LabelCalibration:
    """Calibration of log-scores.

    Attributes:
        temperature: Divisor of the scores.
        bias: Offset of each label after the division, (K,); its mean is 0.
        labelled: Number of labelled clips it was fitted on; 0 if it was not fitted.
    """

    temperature: float
    bias: Floats
    labelled: int = 0

    def __call__(self, scores: Floats) -> Floats:
        """Return log-scores, (n, K), whose softmax are the calibrated probabilities; rows of NaN stay NaN.

        Args:
            scores: Log-scores, (n, K).
        """
        return scores / self.temperature + self.bias


def fit_calibration(
    scores: Floats, labels: Ints, *, temperature: float | None = None, bias: bool = True
) -> LabelCalibration:
    """Return the maximum a posteriori temperature and bias for labelled scores.

    Args:
        scores: Log-scores, (n, K); rows of NaN are skipped.
        labels: Index of the label of each clip, (n,); -1 without a label.
        temperature: A fixed temperature; None: fitted between 0.05 and 20.
        bias: Whether to fit a bias; without it, the most probable label of each clip does not change.

    Returns:
        The calibration; ``temperature`` (1 for None) and no bias if fewer than `MIN_LABELLED` clips have both scores
            and
        a label.
    """
    classes = scores.shape[1]
    usable = (labels >= 0) & np.isfinite(scores).all(axis=1)
    if usable.sum() < MIN_LABELLED or (temperature is not None and not bias):
        return LabelCalibration(1.0 if temperature is None else temperature, np.zeros(classes))
    labelled_scores, truth = scores[usable], labels[usable]
    rows = np.arange(len(truth))

    def loss(parameters: Floats) -> tuple[float, Floats]:
        """Return the negative log-posterior and its gradient for the log-temperature and the biases, (1 + K,)."""
        scaled = labelled_scores * np.exp(-parameters[0])
        logits = scaled + parameters[1:]  # (m, K)
        logits = logits - logits.max(axis=1, keepdims=True)
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        error = np.exp(log_probs)
        error[rows, truth] -= 1.0
        gradient = np.concatenate([[-(error * scaled).sum()], error.sum(axis=0)])
        prior_std = np.array([TEMPERATURE_PRIOR_STD, *[BIAS_PRIOR_STD] * classes])
        weighted = parameters / prior_std**2
        return float(-log_probs[rows, truth].sum() + 0.5 * (parameters * weighted).sum()), gradient + weighted

    fixed = None if temperature is None else float(np.log(temperature))
    temperature_bounds = (np.log(_MIN_TEMPERATURE), np.log(_MAX_TEMPERATURE)) if fixed is None else (fixed, fixed)
    bounds = [temperature_bounds, *[(None, None) if bias else (0.0, 0.0)] * classes]
    start = np.zeros(1 + classes)
    start[0] = fixed or 0.0
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return LabelCalibration(float(np.exp(fitted[0])), fitted[1:] - fitted[1:].mean(), int(usable.sum()))


def held_out_calibrations(
    scores: Floats, labels: Ints, folds: Ints, *, temperature: float | None = None, bias: bool = True
) -> tuple[Floats, Sequence[LabelCalibration]]:
    """Return the calibrated log-scores of each clip, (n, K), fitted only on the labelled clips of the other folds.

    Args:
        scores: Log-scores, (n, K).
        labels: Index of the given label of each clip, (n,); -1 without a label.
        folds: Fold of each clip, (n,); no group is in two folds.
        temperature: See `fit_calibration`.
        bias: See `fit_calibration`.

    Returns:
        The log-scores, and the calibration of each fold.
    """
    values, fitted = np.full_like(scores, np.nan), []
    for fold in np.unique(folds):
        in_fold = folds == fold
        fitted.append(fit_calibration(scores[~in_fold], labels[~in_fold], temperature=temperature, bias=bias))
        values[in_fold] = fitted[-1](scores[in_fold])
    return values, fitted
