"""Scores of many utterances, each text asked once, and what they amount to: probabilities and votes."""

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
    Answered,
    Question,
    ScoreBooks,
    ScoreCache,
    TextScores,
    ask_about,
    drafts_of,
    nothing_to_ask,
)
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Prompt, load_prompt
from ecmf_pipeline.llm.requests import AskingStep
from ecmf_pipeline.llm.server_run import Budget, Drafts
from ecmf_pipeline.runner import Engine, Outcome, Step, StepFactory
from ecmf_pipeline.runner.machine import as_out_of_memory

if TYPE_CHECKING:
    from ecmf_pipeline.llm.local import TransformersScorer


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of a list of utterances.

    Attributes:
        values: Calibrated log-scores, (n, K); NaN where there are no words, and where the text is set aside.
        asked: How many texts the model was asked.
        cached: How many texts were answered from the cache.
        empty: How many utterances have no words.
        truncated: How many of the texts asked were too long and cut.
        quarantined: How many utterances are set aside, by this run or earlier ones.
        invalid: How many utterances the model abstains on because its answers were not valid.
    """

    values: NDArray[np.float64]
    asked: int
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
    books: ScoreBooks,
    prompt: Prompt | None = None,
    engine: Engine | None = None,
    budget: Budget | None = None,
) -> Scored:
    """The calibrated label scores of what clips say, asking only what no cache knows.

    Args:
        config: The model and what it is asked.
        texts: What each clip says, by clip id, (n,); blank ones are not asked.
        labels: Labels to choose from, (K,).
        books: Where the stage keeps what it has asked.
        prompt: The prompt with examples of the corpus; None: as it is packaged.
        engine: Who runs the workers; None: processes of this machine, as ``config`` says.
        budget: What may still be sent to a server, where a stage asks in several loops; None: one for this loop.

    Returns:
        The scores, (n, K).

    Raises:
        ModelError: When the model cannot be loaded, or gave no valid answer on any calibration text.
        TryAgain: As `answers.ask_about` does, with what else it raises.
    """
    if not any(text.strip() for text in texts.values()):  # nobody speaks: no model is needed
        nothing_to_ask(books)
        return Scored(np.full((len(texts), len(labels)), np.nan), 0, 0, len(texts), 0, 0)
    asked = prompt or load_prompt(config.prompt)
    settings = fingerprint(config.settings(labels, prompt))
    calibration = calibration_of_server(config, asked)
    found = scored(
        {**texts, **{f"{CALIBRATION}{number}": text for number, text in enumerate(calibration)}},
        labels,
        fingerprint=settings,
        books=books,
        steps=steps_of(config, asked, labels, drafts=partial(drafts_of, books, settings), budget=budget),
        config=config,
        engine=engine,
    )
    return calibrated(found, len(calibration))


def calibration_of_server(config: LlmConfig, prompt: Prompt) -> list[str]:
    """The texts that a server is asked besides those of the clips; none for a local model, which sees to it itself."""
    if config.backend != "openai":
        return []
    return [text for text in prompt.calibration_texts(config.calibration) if text.strip()]


CALIBRATION = "/calibration/"
"""Begins the names of the calibration texts; no clip id holds a slash."""


def calibrated(found: Scored, texts: int) -> Scored:
    """The scores of the clips less the mean of those of the calibration texts.

    Args:
        found: Scores, (n + texts, K), those of the calibration texts last.
        texts: How many those are; with none, the scores stay as they are.

    Raises:
        ModelError: When the model gave no valid answer on any calibration text.
    """
    if not texts:
        return found
    values, baseline = found.values[:-texts], found.values[-texts:]
    answered = np.isfinite(baseline).all(axis=1)
    if not answered.any():
        raise ModelError(
            f"the model gave no valid answer on any of the {texts} calibration texts",
            "see `ecmf-pipe llm export` for what it said; take a model that keeps to a schema, or set "
            "llm.calibration: none",
        )
    return replace(found, values=values - baseline[answered].mean(axis=0))


def scored(
    utterances: Mapping[str, str],
    labels: Sequence[str],
    *,
    fingerprint: str,
    books: ScoreBooks,
    steps: StepFactory,
    config: LlmConfig,
    engine: Engine | None = None,
) -> Scored:
    """Score what each clip says, by clip id, (n,), uncalibrated; blank texts are not asked; see `answers.ask_about`.

    Args:
        utterances: The texts.
        labels: Labels to choose from, (K,).
        fingerprint: Of all that changes a score.
        books: Where the stage keeps what it has asked.
        steps: See `steps_of`.
        config: How the loop runs.
        engine: Who runs the workers; None: processes of this machine, as ``config`` says.
    """
    keys = {clip_id: sha256_text(text) for clip_id, text in utterances.items() if text.strip()}
    cache = ScoreCache(books.cache, fingerprint, also=[other.cache for other in books.earlier])
    found = ask_about(
        keys,
        utterances,
        len,
        cache=cache,
        books=books,
        steps=steps,
        config=config,
        engine=engine,
    )
    return scores_kept(cache, list(utterances), keys, labels, found)


def scores_kept(
    cache: AnswerCache[TextScores],
    clip_ids: Sequence[str],
    keys: Mapping[str, str],
    labels: Sequence[str],
    found: Answered,
) -> Scored:
    """The scores of clips, (n, K), and what a run did for them; clips without a key were not asked about."""
    values = np.full((len(clip_ids), len(labels)), np.nan)
    for row, clip_id in enumerate(clip_ids):
        if clip_id in keys and keys[clip_id] in cache:
            values[row] = cache[keys[clip_id]].scores or np.nan
    return Scored(
        values,
        asked=len(found.asked),
        cached=found.cached,
        empty=len(clip_ids) - len(keys),
        truncated=sum(cache[key].cut for key in found.asked),
        quarantined=found.quarantined,
        invalid=sum(not cache[key].scores for key in keys.values() if key in cache),
    )


def steps_of(
    config: LlmConfig,
    prompt: Prompt,
    labels: Sequence[str],
    *,
    drafts: Callable[[], Drafts],
    budget: Budget | None = None,
) -> StepFactory:
    """What makes the steps that score labels; neither a model nor a client library is loaded before it does.

    Args:
        config: The model and what it is asked.
        prompt: The prompt, packaged or with examples of the corpus.
        labels: Labels to choose from, (K,).
        drafts: Opens what has been paid for of texts that are not finished.
        budget: What may still be sent to a server; None: as ``config`` says.
    """
    if config.backend == "openai":
        return lambda _: AskingStep(config, prompt, labels, drafts(), budget or Budget(config.budget))
    return partial(_scoring_step, config, prompt, tuple(labels))


def _scoring_step(config: LlmConfig, prompt: Prompt, labels: tuple[str, ...], worker: int) -> ScoringStep:
    """Load the model, in a worker: the process that only hands out the work never loads torch."""
    from ecmf_pipeline.llm.local import TransformersScorer

    return ScoringStep(TransformersScorer(config, worker, prompt), labels)


class ScoringStep(Step[Question[str], str, TextScores]):
    """Scores the labels for texts.

    Args:
        scorer: The model.
        labels: Labels to choose from, (K,).
    """

    def __init__(self, scorer: TransformersScorer, labels: Sequence[str]) -> None:
        self._scorer = scorer
        self._labels = labels
        scorer.score([], labels)  # loads and calibrates now: the time that it takes is no text's fault

    def open(self, item: Question[str]) -> str:
        """The words."""
        return item.about

    def work(self, batch: Sequence[tuple[Question[str], str]]) -> list[Outcome[TextScores]]:
        """Score a batch; the clips that say a text share its row."""
        with as_out_of_memory():
            scores = self._scorer.score([text for _, text in batch], self._labels)  # (B, K)
        outcomes: list[Outcome[TextScores]] = []
        for (item, text), row in zip(batch, scores, strict=True):
            result: TextScores | ClipError
            if np.isfinite(row).all():
                result = TextScores.of(sha256_text(text), row, cut=text in self._scorer.cut)
            else:
                result = FeaturesNotFinite("the model's scores of what is said are not finite")
            outcomes += [Outcome(target, result) for target in item.targets]
        return outcomes


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
