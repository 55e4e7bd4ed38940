"""Content of the requests to an OpenAI-compatible server, and of its responses.

Servers differ in their key, in the options that they support, and in the time until a retry. An answer contains a
label, or log-probabilities that score all labels.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.console import warn
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.llm.config import ServerConfig
from ecmf_pipeline.llm.schema import InvalidAnswer, read_object

KEY_PLACEHOLDER = "***"
"""Replacement of the key in texts."""
_KEY = re.compile(r"[!-~]+")
"""Printable ASCII without spaces, as HTTP headers allow."""
_OPTION_ERRORS = {400, 422}
_UNSUPPORTED = re.compile(r"unsupported|not supported|does not support|only the default", re.IGNORECASE)
_LABEL_START = re.compile(r'"label"\s*:\s*"')
_MIN_REMAINDER = 1e-6
"""Probability of the labels without an alternative, if the alternatives leave less."""
_MAX_LOG_PROBABILITY = 1e-3
"""A log-probability is at most 0, except for rounding."""


class ServerKey:
    """The key of one server.

    Attributes:
        text: The key; empty for a server without a key.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._pattern = re.compile("".join(map(_escaped_forms, text))) if text else None

    @classmethod
    def of(cls, config: ServerConfig) -> ServerKey:
        """Read the key from the environment.

        Raises:
            ModelError: If the variable is not set or cannot be a key; the message does not contain its value.
        """
        if config.key_env is None:
            return cls("")
        if not (text := os.environ.get(config.key_env, "").strip()):
            raise ModelError(
                f"the environment variable {config.key_env} is not set",
                "set it to the key of the server, or set llm.server.key_env: null for a server without a key",
            )
        if not _KEY.fullmatch(text):
            raise ModelError(
                f"the environment variable {config.key_env} is not a key: it contains spaces, line breaks or "
                "characters beyond ASCII",
                "set it to the key, without other characters",
            )
        return cls(text)

    def redact(self, text: str) -> str:
        """Replace the key in a text, in plain form and with any JSON escapes, so later decoding cannot restore it."""
        return self._pattern.sub(KEY_PLACEHOLDER, text) if self._pattern else text


def _escaped_forms(character: str) -> str:
    r"""Return a pattern of a character: plain, escaped, or by its number (\\u0073), also in JSON within JSON."""
    return rf"(?:\\*{re.escape(character)}|\\+u00(?i:{ord(character):02x}))"


class RequestOptions:
    """Request options, adapted to the error responses of a server; an adaptation holds for all further requests.

    Threads can share it: each adaptation is one idempotent assignment.
    """

    def __init__(self) -> None:
        self._max_tokens_name = "max_tokens"
        self._supports_temperature = True

    def adapt(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options in the form that this server supports.

        Args:
            options: Options in the common form: ``max_tokens``, ``temperature`` and others.
        """
        renamed = {self._max_tokens_name if name == "max_tokens" else name: value for name, value in options.items()}
        return {name: value for name, value in renamed.items() if name != "temperature" or self._supports_temperature}

    def update(self, status: int, message: str, sent: Mapping[str, Any]) -> bool:
        """Adapt to an error response.

        Args:
            status: HTTP status of the response.
            message: Error message of the response.
            sent: The rejected options.

        Returns:
            Whether the request should be sent again with other options.
        """
        if status not in _OPTION_ERRORS:
            return False
        unsupported = _UNSUPPORTED.search(message) is not None
        if "max_tokens" in sent and ("max_completion_tokens" in message or (unsupported and "max_tokens" in message)):
            self._max_tokens_name = "max_completion_tokens"
            return True
        if "temperature" in sent and "temperature" in message and unsupported:
            if self._supports_temperature:
                warn("llm: the server does not support the option temperature: it samples with its own temperature")
            self._supports_temperature = False
            return True
        return False


def response_format(config: ServerConfig, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that constrain an answer to its schema, as far as the server supports it."""
    if config.structured == "none":
        return {}
    if config.structured == "json_object":
        return {"response_format": {"type": "json_object"}}
    json_schema = {"name": "answer", "strict": True, "schema": dict(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header with seconds or a date (RFC 9110, 10.2.3); None for other values."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError, TypeError, OSError):  # not a date, or beyond the calendar
            return None
    return max(0.0, seconds) if seconds < float("inf") else None


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer.

    Attributes:
        text: The token.
        alternatives: Alternative tokens at this position: (text, log-probability).
    """

    text: str
    alternatives: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a server.

    Attributes:
        content: The text of the answer.
        tokens: Its tokens, if log-probabilities were requested and returned.
    """

    content: str
    tokens: tuple[Token, ...] = ()


def read_label(content: str, words: Sequence[str]) -> int:
    """Return the index of the word in an answer.

    Raises:
        InvalidAnswer: If the answer contains none of the words.
    """
    label = read_object(content, {"label"})["label"]
    if not isinstance(label, str) or label not in words:
        raise InvalidAnswer("names no label that was asked for")
    return list(words).index(label)


def read_scores(answer: Answer, words: Sequence[str]) -> NDArray[np.float64]:
    """Return the log-probability of each word as the label, (K,), from the alternatives at the start of the label.

    Alternatives are tokens: each counts for the words that start with it. If several words start with a token, the
    chosen token counts for the word of the answer, and the probability of any other token is split equally. Words
    without an alternative share the remaining probability, and get at most as much as the least probable other word.

    Raises:
        InvalidAnswer: If the answer contains none of the words, its tokens do not spell it, or a log-probability is
            invalid.
    """
    chosen = read_label(answer.content, words)
    value = _LABEL_START.search(answer.content)
    text = "".join(token.text for token in answer.tokens)
    if value is None or text[: len(answer.content)] != answer.content:
        raise InvalidAnswer("its tokens do not spell it")
    start, before = value.end(), 0
    for token in answer.tokens:
        if before + len(token.text) > start:
            break
        before += len(token.text)
    else:
        raise InvalidAnswer("its tokens do not spell it")
    return _distribute(token, answer.content[before:start], chosen, words)


def _distribute(token: Token, opening: str, chosen: int, words: Sequence[str]) -> NDArray[np.float64]:
    probs = np.zeros(len(words))
    for text, likelihood in dict(token.alternatives).items():
        if not likelihood <= _MAX_LOG_PROBABILITY:  # also rejects NaN
            raise InvalidAnswer(f"gives {likelihood} for a log-probability")
        if not text.startswith(opening) or not math.isfinite(likelihood):
            continue
        start = text[len(opening) :].split('"')[0]
        candidates = [index for index, word in enumerate(words) if start and word.startswith(start)]
        if text == token.text and chosen in candidates:
            candidates = [chosen]
        probs[candidates] += math.exp(likelihood) / max(1, len(candidates))
    if probs[chosen] <= 0:
        raise InvalidAnswer("its label is not among its own alternatives")
    if (unseen := probs <= 0).any():
        remainder = max(1.0 - float(probs.sum()), _MIN_REMAINDER) / int(unseen.sum())
        probs[unseen] = min(remainder, float(probs[~unseen].min()))
    scores: NDArray[np.float64] = np.log(probs)
    return scores


def sample_scores(chosen: Sequence[int], count: int) -> NDArray[np.float64]:
    """Return the log-share of each of ``count`` labels among samples, (K,), with half a sample added to each.

    Source: the Jeffreys prior.
    """
    votes = np.bincount(np.asarray(chosen, np.int64), minlength=count) + 0.5
    scores: NDArray[np.float64] = np.log(votes / votes.sum())
    return scores
