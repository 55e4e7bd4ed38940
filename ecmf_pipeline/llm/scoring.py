"""Label scores of many utterances, each distinct text once, and their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import ClipError, FeaturesNotFinite, ModelError
from ecmf_pipeline.core.files import fingerprint, sha256_text
from ecmf_pipeline.llm.answers import (
    AnswerCache,
    AnswerFiles,
    ScoreCache,
    TextScores,
    open_drafts,
    write_empty_quarantine,
)
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Prompt, load_prompt
from ecmf_pipeline.llm.questions import AnswerSummary, Question, answer_questions
from ecmf_pipeline.llm.requests import TextScoringStep
from ecmf_pipeline.llm.server_run import Budget, Drafts
from ecmf_pipeline.runner import Engine, Outcome, Step, StepFactory
from ecmf_pipeline.runner.machine import as_out_of_memory

if TYPE_CHECKING:
    from ecmf_pipeline.llm.local import TransformersScorer


@dataclass(frozen=True, slots=True)
class ScoringResult:
    """Label scores of a list of utterances.

    Attributes:
        values: Calibrated log-scores, (n, K); NaN if an utterance has no words or is quarantined.
        answered: Number of texts that this run scored.
        cached: Number of texts with cached scores.
        empty: Number of utterances without words.
        truncated: Number of texts that this run truncated.
        quarantined: Number of quarantined utterances, by this run or earlier ones.
        invalid: Number of utterances on which the model abstains because its answers were invalid.
    """

    values: NDArray[np.float64]
    answered: int
    cached: int
    empty: int
    truncated: int
    quarantined: int
    invalid: int = 0


def label_scores(
    config: LlmConfig,
    texts: Mapping[str, str],
    labels: Sequence[str],
    *,
    answer_files: AnswerFiles,
    prompt: Prompt | None = None,
    engine: Engine | None = None,
    budget: Budget | None = None,
) -> ScoringResult:
    """Return the calibrated label scores of transcripts; only texts without cached scores are sent to the model.

    Args:
        config: The model and its prompt.
        texts: Transcript of each clip, by clip id, (n,); blank ones are skipped.
        labels: Labels to choose from, (K,).
        answer_files: Files of the stage.
        prompt: The prompt with examples of the corpus; None: the packaged prompt.
        engine: Runs the workers; None: processes of this machine, according to ``config``.
        budget: Limits of the requests that several calls share; None: those of ``config`` for this call.

    Returns:
        The scores, (n, K).

    Raises:
        ModelError: If the model cannot be loaded, or no calibration text has a valid answer.
        TryAgain: See `questions.answer_questions`, also for further errors.
    """
    if not any(text.strip() for text in texts.values()):  # no model is needed
        write_empty_quarantine(answer_files)
        return ScoringResult(np.full((len(texts), len(labels)), np.nan), 0, 0, len(texts), 0, 0)
    used_prompt = prompt or load_prompt(config.prompt)
    settings = fingerprint(config.settings(labels, prompt))
    calibration = server_calibration_texts(config, used_prompt)
    uncalibrated = score_texts(
        {**texts, **{f"{CALIBRATION_PREFIX}{number}": text for number, text in enumerate(calibration)}},
        labels,
        fingerprint=settings,
        answer_files=answer_files,
        steps=scoring_steps(
            config, used_prompt, labels, drafts=partial(open_drafts, answer_files, settings), budget=budget
        ),
        config=config,
        engine=engine,
    )
    if answer_files.shard is not None:  # another shard may have the calibration texts
        return replace(uncalibrated, values=uncalibrated.values[: len(texts)])
    return subtract_calibration(uncalibrated, len(calibration))


def server_calibration_texts(config: LlmConfig, prompt: Prompt) -> list[str]:
    """Return the calibration texts that are sent to a server; empty for a local model, which calibrates itself."""
    if config.backend != "openai":
        return []
    return [text for text in prompt.calibration_texts(config.calibration) if text.strip()]


CALIBRATION_PREFIX = "/calibration/"
"""Prefix of the names of calibration texts; clip ids contain no slash."""


def subtract_calibration(scores: ScoringResult, texts: int) -> ScoringResult:
    """Subtract the mean score of the calibration texts from the scores of the clips.

    Args:
        scores: Scores, (n + texts, K), those of the calibration texts last.
        texts: Number of calibration texts; with 0, the scores are unchanged.

    Raises:
        ModelError: If no calibration text has a valid answer.
    """
    if not texts:
        return scores
    values, baseline = scores.values[:-texts], scores.values[-texts:]
    valid = np.isfinite(baseline).all(axis=1)
    if not valid.any():
        raise ModelError(
            f"none of the {texts} calibration texts has a valid answer",
            "set llm.calibration: none, or llm.model to a model that follows a schema; to print its raw answers, run",
            command="ecmf-pipe llm export -",
        )
    return replace(scores, values=values - baseline[valid].mean(axis=0))


def score_texts(
    utterances: Mapping[str, str],
    labels: Sequence[str],
    *,
    fingerprint: str,
    answer_files: AnswerFiles,
    steps: StepFactory,
    config: LlmConfig,
    engine: Engine | None = None,
) -> ScoringResult:
    """Return the uncalibrated label scores of transcripts, (n, K); see `questions.answer_questions`.

    Args:
        utterances: Transcript of each clip, by clip id, (n,); blank ones are skipped.
        labels: Labels to choose from, (K,).
        fingerprint: Fingerprint of all that changes a score.
        answer_files: Files of the stage.
        steps: Factory of the steps; see `scoring_steps`.
        config: Settings of the run.
        engine: Runs the workers; None: processes of this machine, according to ``config``.
    """
    keys = {clip_id: sha256_text(text) for clip_id, text in utterances.items() if text.strip()}
    cache = ScoreCache(answer_files.cache, fingerprint, also=[other.cache for other in answer_files.earlier])
    summary = answer_questions(
        keys,
        utterances,
        len,
        cache=cache,
        answer_files=answer_files,
        steps=steps,
        config=config,
        engine=engine,
    )
    return collect_scores(cache, list(utterances), keys, labels, summary)


def collect_scores(
    cache: AnswerCache[TextScores],
    clip_ids: Sequence[str],
    keys: Mapping[str, str],
    labels: Sequence[str],
    summary: AnswerSummary,
) -> ScoringResult:
    """Return the scores of clips, (n, K), with the counts of a run; clips without a key have no question."""
    values = np.full((len(clip_ids), len(labels)), np.nan)
    for row, clip_id in enumerate(clip_ids):
        if clip_id in keys and keys[clip_id] in cache:
            values[row] = cache[keys[clip_id]].scores or np.nan
    return ScoringResult(
        values,
        answered=len(summary.answered),
        cached=summary.cached,
        empty=len(clip_ids) - len(keys),
        truncated=sum(cache[key].cut for key in summary.answered),
        quarantined=summary.quarantined,
        invalid=sum(not cache[key].scores for key in keys.values() if key in cache),
    )


def scoring_steps(
    config: LlmConfig,
    prompt: Prompt,
    labels: Sequence[str],
    *,
    drafts: Callable[[], Drafts],
    budget: Budget | None = None,
) -> StepFactory:
    """Return the factory of the steps that score labels; it loads a model or client library when called.

    Args:
        config: The model and its prompt.
        prompt: The prompt, packaged or with examples of the corpus.
        labels: Labels to choose from, (K,).
        drafts: Function that opens the paid answers of unfinished texts.
        budget: Limits of the requests to a server; None: those of ``config``.
    """
    if config.backend == "openai":
        return lambda _: TextScoringStep(config, prompt, labels, drafts(), budget or Budget(config.budget))
    return partial(_scoring_step, config, prompt, tuple(labels))


def _scoring_step(config: LlmConfig, prompt: Prompt, labels: tuple[str, ...], worker: int) -> ScoringStep:
    """Load the model in a worker; the main process never imports torch."""
    from ecmf_pipeline.llm.local import TransformersScorer

    return ScoringStep(TransformersScorer(config, worker, prompt), labels)


class ScoringStep(Step[Question[str], str, TextScores]):
    """Step that scores the labels of texts with a local model.

    Args:
        scorer: The model.
        labels: Labels to choose from, (K,).
    """

    def __init__(self, scorer: TransformersScorer, labels: Sequence[str]) -> None:
        self._scorer = scorer
        self._labels = labels
        scorer.score([], labels)  # loads and calibrates outside of the time limit of any text

    def open(self, item: Question[str]) -> str:
        """Return the text."""
        return item.content

    def work(self, batch: Sequence[tuple[Question[str], str]]) -> list[Outcome[TextScores]]:
        """Score a batch; clips with the same text share its row."""
        with as_out_of_memory():
            scores = self._scorer.score([text for _, text in batch], self._labels)  # (B, K)
        outcomes: list[Outcome[TextScores]] = []
        for (item, text), row in zip(batch, scores, strict=True):
            result: TextScores | ClipError
            if np.isfinite(row).all():
                result = TextScores.of(sha256_text(text), row, cut=text in self._scorer.truncated)
            else:
                result = FeaturesNotFinite("the label scores of the transcript are not finite")
            outcomes += [Outcome(target, result) for target in item.targets]
        return outcomes


def probabilities(scores: NDArray[np.float64], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the softmax over the labels, (n, K); rows of NaN stay NaN.

    Args:
        scores: Log-scores, (n, K).
        temperature: Divisor of the scores: above 1 flattens, below 1 sharpens.
    """
    scaled = scores / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = scaled / scaled.sum(axis=1, keepdims=True)
    return normalised
