"""A server's key: where it comes from, and how it is taken out of whatever the server sends back."""

from __future__ import annotations

import os
import re

from ecmf_pipeline.errors import ModelError
from ecmf_pipeline.llm.server_config import ServerConfig

INSTEAD = "***"
"""What stands where the key stood."""

_KEY = re.compile(r"[!-~]+")
"""Printable ASCII without blanks: what a header can hold."""


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
