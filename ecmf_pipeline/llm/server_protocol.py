"""What an OpenAI-compatible server is sent and what it sends back, but for the request itself.

Servers differ in their key, in the options that they take, and in when they may be asked again. An answer names a
label, or gives log-probabilities that score all of them.
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

INSTEAD = "***"
"""What stands where the key stood."""
_KEY = re.compile(r"[!-~]+")
"""Printable ASCII without blanks: what a header can hold."""
_REFUSING = {400, 422}
_NOT_HERE = re.compile(r"unsupported|not supported|does not support|only the default", re.IGNORECASE)
_VALUE = re.compile(r'"label"\s*:\s*"')
_LEAST = 1e-6
"""Probability left for the labels that no alternative names, where the others leave less."""
_MOST = 1e-3
"""A log-probability is no more than 0, but for rounding."""


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


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer.

    Attributes:
        text: The token.
        alternatives: What could have stood there: (text, log-probability).
    """

    text: str
    alternatives: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a server.

    Attributes:
        content: What the model wrote.
        tokens: Its tokens, where the server was asked for log-probabilities and gave them.
    """

    content: str
    tokens: tuple[Token, ...] = ()


def read_label(content: str, words: Sequence[str]) -> int:
    """The index of the word that an answer names.

    Raises:
        InvalidAnswer: When it names none of them.
    """
    label = read_object(content, {"label"})["label"]
    if not isinstance(label, str) or label not in words:
        raise InvalidAnswer("names no label that was asked for")
    return list(words).index(label)


def read_scores(answer: Answer, words: Sequence[str]) -> NDArray[np.float64]:
    """Log-probability of each word as the answer's label, (K,), from the alternatives where the label begins.

    The alternatives are tokens: one counts for the words that begin with it. Where it may begin several, the token that
    was written counts for the word that was written, and any other is shared equally. The words that no alternative
    names share what the others leave, and never get more than the least of them.

    Raises:
        InvalidAnswer: When the answer names none of the words, or its tokens do not spell it, or have what can be no
            log-probability.
    """
    chosen = read_label(answer.content, words)
    found = _VALUE.search(answer.content)
    spelled = "".join(token.text for token in answer.tokens)
    if found is None or spelled[: len(answer.content)] != answer.content:
        raise InvalidAnswer("its tokens do not spell it")
    start, before = found.end(), 0
    for token in answer.tokens:
        if before + len(token.text) > start:
            break
        before += len(token.text)
    else:
        raise InvalidAnswer("its tokens do not spell it")
    return _shared_out(token, answer.content[before:start], chosen, words)


def _shared_out(token: Token, opening: str, chosen: int, words: Sequence[str]) -> NDArray[np.float64]:
    probs = np.zeros(len(words))
    for text, likelihood in dict(token.alternatives).items():
        if not likelihood <= _MOST:  # written so that NaN is refused too
            raise InvalidAnswer(f"gives {likelihood} for a log-probability")
        if not text.startswith(opening) or not math.isfinite(likelihood):
            continue
        begun = text[len(opening) :].split('"')[0]
        fitting = [index for index, word in enumerate(words) if begun and word.startswith(begun)]
        if text == token.text and chosen in fitting:
            fitting = [chosen]
        probs[fitting] += math.exp(likelihood) / max(1, len(fitting))
    if probs[chosen] <= 0:
        raise InvalidAnswer("its label is not among its own alternatives")
    if (unseen := probs <= 0).any():
        left = max(1.0 - float(probs.sum()), _LEAST) / int(unseen.sum())
        probs[unseen] = min(left, float(probs[~unseen].min()))
    scores: NDArray[np.float64] = np.log(probs)
    return scores


def share_scores(chosen: Sequence[int], count: int) -> NDArray[np.float64]:
    """Log-share of each of ``count`` labels among samples, (K,), each raised by half a sample (Jeffreys)."""
    votes = np.bincount(np.asarray(chosen, np.int64), minlength=count) + 0.5
    scores: NDArray[np.float64] = np.log(votes / votes.sum())
    return scores
