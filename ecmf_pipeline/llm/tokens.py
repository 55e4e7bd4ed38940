"""How many tokens a chat is about to take, where only the server knows its tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ecmf_pipeline.llm.prompt import Message

_TURN = 4
"""Tokens that frame a turn."""


def about_tokens(messages: Sequence[Message]) -> int:
    """An estimate on the high side: four ASCII characters a token, one of any other script."""
    return sum(_TURN + about(message["content"]) for message in messages)


def about(text: str) -> int:
    """The same of a text."""
    plain = sum(character.isascii() for character in text)
    return math.ceil(plain / 4) + len(text) - plain
