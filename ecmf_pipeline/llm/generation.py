"""Forms about many clips, filled in by the configured model; each distinct question is sent once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ecmf_pipeline.core.errors import ClipError
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.llm.answers import AnswerCache, AnswerFiles, FormAnswer, open_drafts
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Chat, question_key
from ecmf_pipeline.llm.questions import Question, answer_questions
from ecmf_pipeline.llm.requests import ServerFormStep
from ecmf_pipeline.llm.schema import InvalidAnswer, Schema, Value
from ecmf_pipeline.runner import Engine, Outcome, Step
from ecmf_pipeline.runner.machine import as_out_of_memory

if TYPE_CHECKING:
    from ecmf_pipeline.llm.local_generation import TransformersGenerator


@dataclass(frozen=True, slots=True)
class FilledForms:
    """The forms of a list of clips.

    Attributes:
        values: The answer about each clip; None if the model abstains or the question is quarantined.
        answered: Number of questions that this run answered.
        cached: Number of questions with a cached answer.
        quarantined: Number of quarantined clips.
        invalid: Number of clips on which the model abstains because its answers were invalid.
    """

    values: Mapping[str, Mapping[str, Value] | None]
    answered: int
    cached: int
    quarantined: int
    invalid: int


def fill_in_forms(
    config: LlmConfig,
    chats: Mapping[str, Chat],
    schema: Schema,
    *,
    prompt: Mapping[str, Any],
    answer_files: AnswerFiles,
    engine: Engine | None = None,
) -> FilledForms:
    """Return the answers about clips; only questions without a cached answer are sent to the model.

    Args:
        config: The model.
        chats: The question about each clip, by clip id; equal questions are sent once.
        schema: Schema of the answers.
        prompt: The part of the fingerprint that describes the prompt, for example its version.
        answer_files: Files of the stage.
        engine: Runs the workers; None: according to ``config``.

    Raises:
        ModelError: If the model cannot be loaded.
        TryAgain: See `questions.answer_questions`, also for further errors.
    """
    keys = {clip_id: question_key(chat) for clip_id, chat in chats.items()}
    settings = fingerprint(generation_settings(config, schema, prompt))
    cache = AnswerCache(
        answer_files.cache, settings, form_parser(schema), also=[other.cache for other in answer_files.earlier]
    )
    summary = answer_questions(
        keys,
        chats,
        lambda chat: sum(len(turn["content"]) for turn in chat),
        cache=cache,
        answer_files=answer_files,
        steps=(
            (lambda _: ServerFormStep(config, schema, open_drafts(answer_files, settings)))
            if config.backend == "openai"
            else partial(_generation_step, config, schema)
        ),
        config=config,
        engine=engine,
    )
    answers = {clip_id: cache.get(key) for clip_id, key in keys.items()}
    return FilledForms(
        {clip_id: answer.values if answer else None for clip_id, answer in answers.items()},
        answered=len(summary.answered),
        cached=summary.cached,
        quarantined=summary.quarantined,
        invalid=sum(answer is not None and answer.values is None for answer in answers.values()),
    )


def generation_settings(config: LlmConfig, schema: Schema, prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings that change an answer, as JSON values, without the question itself.

    Args:
        config: The model.
        schema: Schema of the answers.
        prompt: The part that describes the prompt, for example its version.

    Raises:
        ModelError: If files of the model are missing.
    """
    decoding: dict[str, Any] = {"dtype": config.dtype}
    if config.backend == "openai":
        server = config.server
        decoding = {
            name: getattr(server, name) for name in ("structured", "answer_tokens", "sample_temperature", "seed")
        }
    return {
        "generates": config.backend,
        "weights": config.weights(),
        "schema": schema.settings(),
        "prompt": dict(prompt),
        "how": decoding,
    }


def form_parser(schema: Schema) -> Callable[[bytes], FormAnswer]:
    """Return a parser of lines of answers; values that violate the schema count as damaged."""

    def parse(line: bytes) -> FormAnswer:
        row = FormAnswer.parse(line)
        if row.values is None:
            return row
        try:
            return replace(row, values=schema.read(json.dumps(dict(row.values))))
        except InvalidAnswer as error:
            raise ValueError(f"the values violate the schema: {line!r}") from error

    return parse


def _generation_step(config: LlmConfig, schema: Schema, worker: int) -> GenerationStep:
    """Load the model in a worker."""
    from ecmf_pipeline.llm.local_generation import TransformersGenerator

    return GenerationStep(TransformersGenerator(config, worker), schema)


class GenerationStep(Step[Question[Chat], Chat, FormAnswer]):
    """Step that answers questions with a local model.

    Args:
        generator: The model.
        schema: Schema of the answers.
    """

    def __init__(self, generator: TransformersGenerator, schema: Schema) -> None:
        self._generator = generator
        self._schema = schema

    def open(self, item: Question[Chat]) -> Chat:
        """Return the turns of the chat."""
        return item.content

    def work(self, batch: Sequence[tuple[Question[Chat], Chat]]) -> list[Outcome[FormAnswer]]:
        """Answer a batch; if one question fails, answer each separately."""
        try:
            with as_out_of_memory():
                answers = self._generator.generate([chat for _, chat in batch], self._schema)
        except ClipError as error:
            if len(batch) > 1:
                return [outcome for one in batch for outcome in self.work([one])]
            return [Outcome(target, error) for item, _ in batch for target in item.targets]
        return [
            Outcome(target, FormAnswer(target.digest, answer.values, answer.raw))
            for (item, _), answer in zip(batch, answers, strict=True)
            for target in item.targets
        ]
