"""What the pipeline asks of a language model, whoever answers: to score labels, and to fill in a form."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import BudgetSpent
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.llm.config import BudgetConfig
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


class Budget:
    """Counts requests and tokens of one run, over all its threads.

    Args:
        config: The limits.

    Attributes:
        requests: Requests sent.
        tokens: Tokens paid for.
    """

    def __init__(self, config: BudgetConfig) -> None:
        self._config = config
        self._settled = threading.Condition()
        self._reserved = 0
        self.requests = 0
        self.tokens = 0

    def reserve(self, tokens: int) -> None:
        """Make room for one request before it is sent; waits where only requests under way leave no room for it.

        Args:
            tokens: The most that it is expected to take; `settle` replaces it by what it took.

        Raises:
            BudgetSpent: When it would go beyond a limit. It is not sent then.
        """
        config = self._config
        with self._settled:
            while True:
                if config.max_requests is not None and self.requests >= config.max_requests:
                    raise BudgetSpent(f"llm.budget.max_requests is spent: {self.requests} requests were sent")
                room = None if config.max_tokens is None else config.max_tokens - self.tokens
                if room is None or self._reserved + tokens <= room:
                    break
                if tokens > room or not self._reserved:
                    raise BudgetSpent(
                        f"llm.budget.max_tokens is spent: {self.tokens} of {config.max_tokens} tokens, and the next "
                        f"request may take {tokens}"
                    )
                self._settled.wait()  # those under way mostly take less than they may
            self.requests += 1
            self._reserved += tokens

    def settle(self, reserved: int, used: int) -> None:
        """Replace what was reserved by what was used; 0 for a request that failed."""
        with self._settled:
            self._reserved -= reserved
            self.tokens += used
            self._settled.notify_all()
