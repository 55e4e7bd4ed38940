"""Settings of an OpenAI-compatible server, of what may be spent on it, and of what it costs."""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from ecmf_pipeline.config import Config
from ecmf_pipeline.errors import ParamsError

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class ServerConfig(Config):
    """Where the server is and how it is asked. The key itself stands in the environment and nowhere else.

    Attributes:
        base_url: Address of its API, with the ``/v1``.
        key_env: Name of the environment variable that holds the key; None for a server that wants none.
        structured: How answers are bound to their schema: by the server (json_schema), by the server as any JSON
            (json_object), or by the prompt alone (none). Every answer is checked in any case.
        scoring: Label scores from the log-probabilities of one answer, or from the share of several samples
            (self-consistency), for servers that give no log-probabilities.
        samples: Answers asked of each text when scoring by samples.
        sample_temperature: Temperature of those answers.
        seed: Seed of the first one; the others count on.
        answer_tokens: Most tokens of an answer.
        concurrency: Requests under way at once.
        timeout: Seconds that a request may take, until its answer is there as a whole; it is then given up and tried
            again. A run that is stopped waits as long for what is under way.
        max_retries: How often a request is tried again after the server failed (429, 5xx, broken or no answer).
        first_wait: Seconds before the first retry; each further one waits twice as long, with jitter, unless the server
            says when (Retry-After).
        longest_wait: Most seconds between two tries, whatever the server says.
    """

    base_url: str = "http://127.0.0.1:8000/v1"
    key_env: str | None = "OPENAI_API_KEY"
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    scoring: Literal["logprobs", "samples"] = "logprobs"
    samples: int = Field(default=5, gt=0)
    sample_temperature: float = Field(default=0.7, gt=0)
    seed: int = Field(default=7, ge=0)
    answer_tokens: int = Field(default=64, gt=0)
    concurrency: int = Field(default=8, gt=0)
    timeout: float = Field(default=60.0, gt=0)
    max_retries: int = Field(default=6, ge=0)
    first_wait: float = Field(default=0.5, ge=0)
    longest_wait: float = Field(default=120.0, gt=0)

    @field_validator("base_url", mode="before")
    @classmethod
    def _plain_address(cls, value: Any) -> Any:
        """An address with a password or a query would carry a secret into locks, settings and reports."""
        parts = urlsplit(str(value))
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or parts.query:
            # Raised as what it is: pydantic's own errors repeat the value, which may hold a secret.
            raise ParamsError(
                "`llm.server.base_url` must be http(s)://host[:port]/path, without user, password or query",
                "a key belongs into the environment variable that `llm.server.key_env` names",
            )
        return value

    @field_validator("key_env", mode="before")
    @classmethod
    def _a_name(cls, value: Any) -> Any:
        if value is not None and not _VARIABLE.fullmatch(str(value)):
            raise ParamsError(
                "`llm.server.key_env` is no name of an environment variable (A-Z, 0-9 and _)",
                "give the variable's name, never the key itself; if that was a key, take it out of the history, too",
            )
        return value

    def settings(self) -> dict[str, Any]:
        """What changes an answer; where the server stands and how fast it is asked does not."""
        changes = {"structured", "scoring", "answer_tokens"}
        if self.scoring == "samples":
            changes |= {"samples", "sample_temperature", "seed"}
        return self.model_dump(mode="json", include=changes)


class BudgetConfig(Config):
    """What one run may spend; it then stops cleanly and the next one goes on.

    Attributes:
        max_requests: Requests sent, retries included; None: no limit.
        max_tokens: Tokens of prompts and answers together, as the server counts them; None: no limit.
    """

    max_requests: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=0)


class PriceConfig(Config):
    """What a server costs, for the dry run: any currency, for a million tokens.

    Attributes:
        prompt: Of prompts.
        answer: Of answers.
    """

    prompt: float = Field(default=0.0, ge=0)
    answer: float = Field(default=0.0, ge=0)
