"""Send the questions without a cached answer to a language model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import (
    ClipTimeout,
    ServerUnavailable,
    TooManyQuarantined,
    TryAgain,
)
from ecmf_pipeline.llm.answers import AnswerCache, AnswerFiles, RowT, open_drafts
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.server_run import ThreadEngine
from ecmf_pipeline.llm.shards import open_answer_writer
from ecmf_pipeline.runner import Engine, Run, RunConfig, RunReport, StepFactory, Target
from ecmf_pipeline.runner.machine import threads_per_worker
from ecmf_pipeline.runner.quarantine import Limits, Quarantine

PART_SIZE = 1024
"""Number of answers in one part."""
BRANCH = "llm"
"""Name of the only branch of the run."""

ContentT = TypeVar("ContentT")


@dataclass(frozen=True, slots=True)
class Question(Generic[ContentT]):
    """One question, for all clips that share it.

    Attributes:
        content: A text, the turns of a chat, or a clip whose pictures are sent.
        targets: The clips.
    """

    content: ContentT
    targets: tuple[Target, ...]

    def alone(self) -> Sequence[Question[ContentT]]:
        """Return the question itself: one question is about all of its clips."""
        return [self]


@dataclass(frozen=True, slots=True)
class AnswerSummary:
    """Outcome of a run.

    Attributes:
        answered: Keys of the questions that this run answered.
        cached: Number of questions with a cached answer.
        quarantined: Number of quarantined clips.
    """

    answered: frozenset[str]
    cached: int
    quarantined: int


def answer_questions(
    keys: Mapping[str, str],
    contents: Mapping[str, ContentT],
    length: Callable[[ContentT], int],
    *,
    cache: AnswerCache[RowT],
    answer_files: AnswerFiles,
    steps: StepFactory,
    config: LlmConfig,
    engine: Engine | None = None,
    limits: Limits | None = None,
) -> AnswerSummary:
    """Send the questions without a cached answer and add the answers to the cache.

    Each finished batch is durable at once, and so is each paid answer to a question that takes several answers. An
    interrupted run therefore loses no paid answers.

    Args:
        keys: SHA-256 of the question about each clip.
        contents: Content of the question about each clip; clips that share a key share a question.
        length: Function that returns the length of a content in characters.
        cache: The cache of these settings.
        answer_files: Files of the stage.
        steps: Factory of the steps; not called if all answers are cached.
        config: Settings of the run.
        engine: Runs the workers; None: processes or threads of this machine, according to ``config``.
        limits: The settings that limit clips, apart from ``clip_timeout``; see `Quarantine`.

    Raises:
        StoreBusy: If another run of the same stage is active.
        TryAgain: If a server failed in all tries for some clips; immediately if the server seems to be down.
        BudgetSpent: If the questions exceed the budget.
        TooManyQuarantined: If the model fails on too many questions; received answers are kept.
        Interrupted: On Ctrl-C or SIGTERM; completed batches are kept.
    """
    on_server = config.backend == "openai"
    if answer_files.shard is not None:
        keys = {clip_id: key for clip_id, key in keys.items() if answer_files.shard.has(key)}
    with open_answer_writer(cache, answer_files, keys) as writer, ExitStack() as exit_stack:
        if on_server:
            exit_stack.callback(lambda: open_drafts(answer_files, cache.fingerprint).remove_finished(cache))
        known = {key for key in keys.values() if key in cache}
        missing = {clip_id: key for clip_id, key in keys.items() if key not in known}
        limits = {**(limits or {}), ClipTimeout.__name__: config.clip_timeout}
        quarantine = _open_quarantine(answer_files, cache.fingerprint, missing, limits)
        report = RunReport(reused={BRANCH: len(keys) - len(missing)})
        clip_ids_by_key: dict[str, list[str]] = defaultdict(list)
        for clip_id, key in missing.items():
            if not quarantine.holds(clip_id, key):
                clip_ids_by_key[key].append(clip_id)
        questions = [
            Question(contents[clip_ids[0]], tuple(Target(clip_id, BRANCH, key) for clip_id in clip_ids))
            for key, clip_ids in clip_ids_by_key.items()
        ]
        if questions:
            run: Run[Question[ContentT]] = Run(
                steps,
                {BRANCH: writer},
                {BRANCH: quarantine},
                RunConfig(
                    1 if on_server else config.batch_size,  # each answer of a server is paid for
                    PART_SIZE,
                    config.max_quarantined,
                    config.workers,
                    config.clip_timeout,
                    threads=threads_per_worker(config.workers),
                ),
                report,
                engine or (ThreadEngine(config.server.concurrency) if on_server else None),
            )
            try:
                run(_shortest_first(questions, length), answer_files.stage)
            except TryAgain as error:
                raise _server_failure(answer_files, error.message) from error
            except TooManyQuarantined as error:
                _raise_if_server_failed(config, answer_files, report, error)
                raise
            _raise_if_server_failed(config, answer_files, report)
        else:
            quarantine.write()
            quarantine.check_share(len(keys), config.max_quarantined)
    answered = frozenset(key for key in missing.values() if key in cache)
    return AnswerSummary(answered, cached=len(known), quarantined=len(quarantine))


def _raise_if_server_failed(
    config: LlmConfig, answer_files: AnswerFiles, report: RunReport, error: TooManyQuarantined | None = None
) -> None:
    """Raise `TryAgain` if the server failed: the server is the cause, not the clips."""
    if failed := report.transient[ServerUnavailable.__name__]:
        message = (
            f"{format_count(failed, 'question')} without an answer: the server at {config.server.base_url} failed in "
            "all tries"
        )
        raise _server_failure(answer_files, message) from error


def _server_failure(answer_files: AnswerFiles, message: str) -> TryAgain:
    return TryAgain(
        f"{answer_files.stage}: {message}",
        f"answers received so far are kept: see {answer_files.quarantine}, then run the same command again",
    )


def _open_quarantine(
    answer_files: AnswerFiles, fingerprint: str, missing: Mapping[str, str], limits: Limits
) -> Quarantine:
    """Open the quarantine table of the stage, reduced to clips without an answer whose question made the model fail."""

    def open_table(stage: AnswerFiles) -> Quarantine:
        table = Quarantine(stage.quarantine, stage=stage.stage, fingerprint=fingerprint, section="llm", limits=limits)
        table.drop_outdated(dict(missing))
        return table

    own = open_table(answer_files)
    if answer_files.retry_quarantined:
        own.clear()
        return own
    failed = {entry.digest: entry for table in (*map(open_table, answer_files.earlier), own) for entry in table}
    for clip_id, key in missing.items():
        if key in failed:  # the question may have failed for another clip or in an earlier stage
            entry = failed[key]
            own.add(clip_id, entry.reason, entry.message, key, float(entry.limit) if entry.limit else None)
    return own


def _shortest_first(
    questions: Sequence[Question[ContentT]], length: Callable[[ContentT], int]
) -> list[Question[ContentT]]:
    """Sort the questions of each part by length.

    A batch is as wide as its longest text: on MELD's utterances, batches in corpus order take twice the processor time.
    """
    chunks = [questions[start : start + PART_SIZE] for start in range(0, len(questions), PART_SIZE)]
    return [question for chunk in chunks for question in sorted(chunk, key=lambda question: length(question.content))]
