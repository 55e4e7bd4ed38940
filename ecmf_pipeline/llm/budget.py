"""What requests cost: tokens estimated before they are sent, texts cut to size, and the limits of one run."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

from ecmf_pipeline.core.errors import BudgetSpent
from ecmf_pipeline.llm.config import BudgetConfig
from ecmf_pipeline.llm.prompt import Message, PictureMessage

_TURN = 4
"""Tokens that frame a turn."""
_PICTURE = 800
"""Tokens of a picture of up to 512 pixels a side: models and servers differ, this is on the high side."""


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


def about_tokens(messages: Sequence[Message | PictureMessage]) -> int:
    """An estimate on the high side: four ASCII characters a token, one of any other script."""
    return sum(_TURN + _about_content(message["content"]) for message in messages)


def _about_content(content: str | list[dict[str, Any]]) -> int:
    if isinstance(content, str):
        return about(content)
    return sum(about(part["text"]) if part["type"] == "text" else _PICTURE for part in content)


def about(text: str) -> int:
    """The same of a text."""
    plain = sum(character.isascii() for character in text)
    return math.ceil(plain / 4) + len(text) - plain


def shortened(text: str, tokens: int) -> tuple[str, bool]:
    """The beginning of a text that takes about so many tokens, and whether anything was cut."""
    room = 4.0 * tokens
    for position, character in enumerate(text):
        room -= 1 if character.isascii() else 4
        if room < 0:
            return text[:position], True
    return text, False
