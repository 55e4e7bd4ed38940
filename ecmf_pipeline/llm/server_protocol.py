"""What differs between OpenAI-compatible servers: their key, the options they take, when they may be asked again."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.progress import warn
from ecmf_pipeline.llm.config import ServerConfig

INSTEAD = "***"
"""What stands where the key stood."""

_KEY = re.compile(r"[!-~]+")
"""Printable ASCII without blanks: what a header can hold."""

_REFUSING = {400, 422}
_NOT_HERE = re.compile(r"unsupported|not supported|does not support|only the default", re.IGNORECASE)


class ServerKey:
    """The key of one server.

    Attributes:
        text: The key; empty for a server that wants none.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._spelled = re.compile("".join(map(_spellings, text))) if text else None

    @classmethod
    def of(cls, config: ServerConfig) -> ServerKey:
        """The key that the environment holds.

        Raises:
            ModelError: When the variable is not set, or what it holds can be no key; it is not repeated.
        """
        if config.key_env is None:
            return cls("")
        if not (text := os.environ.get(config.key_env, "").strip()):
            raise ModelError(
                f"the environment variable {config.key_env} is not set",
                "put the server's key into it, or set llm.server.key_env: null where the server wants none",
            )
        if not _KEY.fullmatch(text):
            raise ModelError(
                f"the environment variable {config.key_env} holds no key: there are blanks, line breaks or signs "
                "beyond ASCII in it",
                "copy the key into it again, the key alone",
            )
        return cls(text)

    def cleared(self, text: str) -> str:
        """The text without the key, however JSON may spell it: what is decoded later does not hold it either."""
        return self._spelled.sub(INSTEAD, text) if self._spelled else text


def _spellings(sign: str) -> str:
    r"""Matches a sign as it is, escaped, or by its number (\\u0073), also in JSON within JSON."""
    return rf"(?:\\*{re.escape(sign)}|\\+u00(?i:{ord(sign):02x}))"


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


def response_format(config: ServerConfig, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The options that bind an answer to its schema, as far as the server does that."""
    if config.structured == "none":
        return {}
    if config.structured == "json_object":
        return {"response_format": {"type": "json_object"}}
    named = {"name": "answer", "strict": True, "schema": dict(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, of a header that holds seconds or a date (RFC 9110, 10.2.3); None where it holds neither."""
    told = headers.get("retry-after", "")
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(told).timestamp() - time.time()
        except (ValueError, OverflowError, TypeError, OSError):  # no date, or one beyond the calendar
            return None
    return max(0.0, seconds) if seconds < float("inf") else None
