"""What one server wants said otherwise than most, learned from its refusals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ecmf_pipeline.progress import warn

_REFUSING = {400, 422}
_NOT_HERE = re.compile(r"unsupported|not supported|does not support|only the default", re.IGNORECASE)


class Dialect:
    """The names and options that a server takes; what it has taught holds for all further requests.

    Safe to use from several threads: each lesson is one assignment, and is the same whoever learns it.
    """

    def __init__(self) -> None:
        self._room = "max_tokens"
        self._tempered = True

    def put(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options as this server takes them.

        Args:
            options: As most servers take them: ``max_tokens``, ``temperature`` and others.
        """
        named = {self._room if name == "max_tokens" else name: value for name, value in options.items()}
        return {name: value for name, value in named.items() if name != "temperature" or self._tempered}

    def learn(self, status: int, said: str, sent: Mapping[str, Any]) -> bool:
        """Learn from a refusal.

        Args:
            status: Its HTTP status.
            said: Its message.
            sent: The options that were refused.

        Returns:
            Whether the request should be sent again, since it would be put otherwise now.
        """
        if status not in _REFUSING:
            return False
        refuses = _NOT_HERE.search(said) is not None
        if "max_tokens" in sent and ("max_completion_tokens" in said or (refuses and "max_tokens" in said)):
            self._room = "max_completion_tokens"
            return True
        if "temperature" in sent and "temperature" in said and refuses:
            if self._tempered:
                warn("llm: the server takes no temperature: whatever is asked, its answers are drawn at its own")
            self._tempered = False
            return True
        return False
