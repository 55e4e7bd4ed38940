"""What the pipeline asks of a language model, whoever answers: to score labels, and to fill in a form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.files import sha256_text
from ecmf_pipeline.llm.prompt import Message
from ecmf_pipeline.llm.schema import Schema, Value

Chat = Sequence[Message]
"""The turns of one question, up to its answer."""


def question_key(chat: Chat) -> str:
    """SHA-256 of a question."""
    return sha256_text(json.dumps(list(chat), ensure_ascii=False, sort_keys=True))


class LabelScorer(Protocol):
    """Says how well each label fits each utterance.

    `local.TransformersScorer` is one; a server is asked by `asking.AskingStep`.
    """

    cut: set[str]
    """Utterances of which only the beginning was read, since they were too long."""

    def score(self, texts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
        """Calibrated log-scores, (n, K): higher fits better; a row is comparable within itself, not with others.

        Args:
            texts: Utterances, (n,), as they were spoken.
            labels: Labels to choose from, (K,).
        """
        ...


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model filled in.

    Attributes:
        values: The value of each field; None where every answer was invalid: the model abstains.
        raw: The answers that were not valid, each with the reason before it.
    """

    values: Mapping[str, Value] | None
    raw: tuple[str, ...] = ()


class Generator(Protocol):
    """Writes answers that keep to a schema.

    `local_generation.TransformersGenerator` and `server_generation.ServerGenerator` do.
    """

    def generate(self, chats: Sequence[Chat], schema: Schema) -> list[Generated]:
        """Answer each chat.

        Args:
            chats: The questions, (n,). What is data in them stands there as `prompt.as_data` left it.
            schema: The form of the answers.

        Returns:
            The answers, (n,).

        Raises:
            ClipError: When a question cannot be answered (too long, refused); alone, the others may be.
        """
        ...

    def stop(self) -> None:
        """Begin nothing any more."""

    def abandon(self) -> None:
        """Begin nothing any more, and wait for nothing that is under way elsewhere."""

    def close(self) -> None:
        """Let go of what it holds."""
