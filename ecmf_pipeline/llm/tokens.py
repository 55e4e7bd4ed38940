"""How many tokens a chat is about to take, where only the server knows its tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ecmf_pipeline.llm.prompt import Message, PictureMessage

_TURN = 4
"""Tokens that frame a turn."""

_PICTURE = 800
"""Tokens of a picture of up to 512 pixels a side: models and servers differ, this is on the high side."""


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
