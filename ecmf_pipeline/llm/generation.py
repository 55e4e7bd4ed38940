"""Forms that a language model fills in about many clips, whichever model params name: each question asked once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ecmf_pipeline.core.errors import ClipError
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.llm.answers import AnswerCache, Question, ScoreBooks, Written, ask_about, drafts_of
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Chat, question_key
from ecmf_pipeline.llm.requests import FormStep
from ecmf_pipeline.llm.schema import InvalidAnswer, Schema, Value
from ecmf_pipeline.runner import Engine, Outcome, Step
from ecmf_pipeline.runner.machine import as_out_of_memory

if TYPE_CHECKING:
    from ecmf_pipeline.llm.local_generation import TransformersGenerator


@dataclass(frozen=True, slots=True)
class Forms:
    """What a model filled in about each clip.

    Attributes:
        values: The answer about each clip that was asked about; None where the model abstains, and where the question
            is set aside.
        asked: How many questions were answered just now.
        cached: How many were answered from the cache.
        quarantined: How many clips are set aside.
        invalid: How many clips the model abstains on because its answers were not valid.
    """

    values: Mapping[str, Mapping[str, Value] | None]
    asked: int
    cached: int
    quarantined: int
    invalid: int


def fill_in(
    config: LlmConfig,
    chats: Mapping[str, Chat],
    schema: Schema,
    *,
    prompt: Mapping[str, Any],
    books: ScoreBooks,
    engine: Engine | None = None,
) -> Forms:
    """Have the model answer about each clip what no cache knows.

    Args:
        config: The model.
        chats: The question about each clip, by clip id; equal ones are asked once.
        schema: The form of the answers.
        prompt: The prompt's part of the settings: its version, say.
        books: Where the stage keeps what it has asked.
        engine: Who runs the workers; None: as ``config`` says.

    Raises:
        ModelError: When the model cannot be loaded.
        TryAgain: As `answers.ask_about` does, with what else it raises.
    """
    keys = {clip_id: question_key(chat) for clip_id, chat in chats.items()}
    settings = fingerprint(generation_settings(config, schema, prompt))
    cache = AnswerCache(books.cache, settings, written_under(schema), also=[other.cache for other in books.earlier])
    found = ask_about(
        keys,
        chats,
        lambda chat: sum(len(turn["content"]) for turn in chat),
        cache=cache,
        books=books,
        steps=(
            (lambda _: FormStep(config, schema, drafts_of(books, settings)))
            if config.backend == "openai"
            else partial(_generation_step, config, schema)
        ),
        config=config,
        engine=engine,
    )
    answers = {clip_id: cache.get(key) for clip_id, key in keys.items()}
    return Forms(
        {clip_id: answer.values if answer else None for clip_id, answer in answers.items()},
        asked=len(found.asked),
        cached=found.cached,
        quarantined=found.quarantined,
        invalid=sum(answer is not None and answer.values is None for answer in answers.values()),
    )


def generation_settings(config: LlmConfig, schema: Schema, prompt: Mapping[str, Any]) -> dict[str, Any]:
    """All that changes an answer, as plain JSON values, but for the question itself.

    Args:
        config: The model.
        schema: The form of the answers.
        prompt: The prompt's part: its version, say.

    Raises:
        ModelError: When the model's files are not there.
    """
    how: dict[str, Any] = {"dtype": config.dtype}
    if config.backend == "openai":
        server = config.server
        how = {name: getattr(server, name) for name in ("structured", "answer_tokens", "sample_temperature", "seed")}
    return {
        "generates": config.backend,
        "weights": config.weights(),
        "schema": schema.settings(),
        "prompt": dict(prompt),
        "how": how,
    }


def written_under(schema: Schema) -> Callable[[bytes], Written]:
    """Reads a line of answers as `Written.parse` does; one whose values the schema forbids is damaged, too."""

    def parse(line: bytes) -> Written:
        row = Written.parse(line)
        if row.values is None:
            return row
        try:
            return replace(row, values=schema.read(json.dumps(dict(row.values))))
        except InvalidAnswer as error:
            raise ValueError(f"not a line of these answers: {line!r}") from error

    return parse


def _generation_step(config: LlmConfig, schema: Schema, worker: int) -> GenerationStep:
    """Load the model, in a worker."""
    from ecmf_pipeline.llm.local_generation import TransformersGenerator

    return GenerationStep(TransformersGenerator(config, worker), schema)


class GenerationStep(Step[Question[Chat], Chat, Written]):
    """Has a model of this machine answer questions.

    Args:
        generator: The model.
        schema: The form of the answers.
    """

    def __init__(self, generator: TransformersGenerator, schema: Schema) -> None:
        self._generator = generator
        self._schema = schema

    def open(self, item: Question[Chat]) -> Chat:
        """The turns."""
        return item.about

    def work(self, batch: Sequence[tuple[Question[Chat], Chat]]) -> list[Outcome[Written]]:
        """Answer a batch; where one question fails, each is answered alone."""
        try:
            with as_out_of_memory():
                answers = self._generator.generate([chat for _, chat in batch], self._schema)
        except ClipError as error:
            if len(batch) > 1:
                return [outcome for one in batch for outcome in self.work([one])]
            return [Outcome(target, error) for item, _ in batch for target in item.targets]
        return [
            Outcome(target, Written(target.digest, answer.values, answer.raw))
            for (item, _), answer in zip(batch, answers, strict=True)
            for target in item.targets
        ]
