"""Answers under a schema from a local causal language model.

The braces, names and quotation marks are written by us, so that an answer cannot leave its schema; the model writes the
values alone. Words and numbers are scored (the likeliest of all that are allowed is taken, its closing sign included),
texts are decoded greedily. Nothing is drawn: the same question gets the same answer.

Several questions are answered side by side, over keys and values that are kept. The prefix that their prompts share is
run once. Rows that wait for others are filled up with tokens that nobody attends to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from ecmf_pipeline.errors import RequestRefused
from ecmf_pipeline.llm.client import Chat, Generated
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.local_model import LocalModel
from ecmf_pipeline.llm.local_rows import Rows
from ecmf_pipeline.llm.local_text import Vocabulary
from ecmf_pipeline.llm.local_values import Writer
from ecmf_pipeline.llm.prompt import Message
from ecmf_pipeline.llm.schema import InvalidAnswer, Number, Schema

_LEAST_SHARED = 16
"""A prefix of fewer tokens is not worth keeping."""


class TransformersGenerator:
    """A `client.Generator` over any causal language model of transformers; loaded with the first question.

    Args:
        config: The model and its batch size.
        worker: Number of the worker that asks.
    """

    def __init__(self, config: LlmConfig, worker: int = 0) -> None:
        self.config = config
        self._model = LocalModel(config, worker)
        self._prefix: list[int] = []
        self._cache: object = None
        self._vocabulary: Vocabulary | None = None

    def stop(self) -> None:
        """Nothing is under way between two calls."""

    def abandon(self) -> None:
        """Nor elsewhere."""

    def close(self) -> None:
        """The model goes with its process."""

    @torch.inference_mode()
    def generate(self, chats: Sequence[Chat], schema: Schema) -> list[Generated]:
        """Answer each chat; see `client.Generator`.

        Raises:
            RequestRefused: When a question with its answer takes more tokens than the model reads.
            FeaturesNotFinite: When the model computes no numbers.
            ModelError: When the model cannot be loaded, or keeps no keys and values.
        """
        prompts = [self._tokens(chat) for chat in chats]
        longest = max(map(len, prompts), default=0) + schema.most_tokens()
        if longest > (limit := self._model.reads or longest):
            raise RequestRefused(f"the question with its answer may take {longest} tokens; the model reads {limit}")
        self._share(prompts)
        answers: list[Generated] = []
        for start in range(0, len(prompts), self.config.batch_size):
            answers += self._fill_in(prompts[start : start + self.config.batch_size], schema)
        return answers

    def _tokens(self, chat: Chat) -> list[int]:
        """The prompt, in the model's chat template where it has one; nothing in it can end a turn."""
        turns: list[Message] = [
            {"role": turn["role"], "content": self._model.harmless(turn["content"])} for turn in chat
        ]
        if self._model.tokenizer.chat_template:
            return self._model.encode(self._model.chat(turns))
        plain = "\n\n".join(turn["content"] for turn in turns)
        return [*self._model.opening, *self._model.encode(plain + "\n")]

    def _share(self, prompts: Sequence[list[int]]) -> None:
        """Run what all prompts begin with, unless that is what was kept last time."""
        size = len(self._prefix)
        if self._cache is not None and all(len(p) > size and p[:size] == self._prefix for p in prompts):
            return
        shared = prompts[0][: _shared(prompts)] if len(prompts) > 1 else []
        self._prefix = shared if len(shared) >= _LEAST_SHARED else []
        self._cache = self._model.prefix_cache(self._prefix)

    def _fill_in(self, prompts: Sequence[list[int]], schema: Schema) -> list[Generated]:
        """One batch, field by field."""
        prefix = self._prefix if self._cache is not None else []
        rows = Rows(self._model, prompts, prefix, self._cache if prefix else None)
        writer = Writer(self._model, rows, self._vocabulary or self._read_vocabulary())
        values: list[dict[str, object]] = [{} for _ in prompts]
        for number, (name, kind) in enumerate(schema.fields):
            opening = "{" if number == 0 else " " if isinstance(schema.fields[number - 1][1], Number) else ", "
            writer.write(f"{opening}{json.dumps(name)}: ")
            last = number == len(schema.fields) - 1
            for row, value in enumerate(writer.value(kind, end="}" if last else ",")):
                values[row][name] = value
        return [_read(json.dumps(answer, ensure_ascii=False), schema) for answer in values]

    def _read_vocabulary(self) -> Vocabulary:
        self._vocabulary = Vocabulary(self._model)
        return self._vocabulary


def _shared(prompts: Sequence[list[int]]) -> int:
    """With how many tokens all prompts begin, leaving each at least one."""
    shortest = min(map(len, prompts)) - 1
    return next((i for i in range(shortest) if len({prompt[i] for prompt in prompts}) > 1), shortest)


def _read(content: str, schema: Schema) -> Generated:
    """An answer, read like anybody's: a text that holds nothing but parts of characters is invalid, say."""
    try:
        return Generated(schema.read(content))
    except InvalidAnswer as error:
        return Generated(None, (f"{error}: {content}",))
