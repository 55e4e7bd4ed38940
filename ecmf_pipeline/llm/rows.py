"""The lines of the caches: what a model said of one text, or wrote in answer to one question."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.files import sha256_text
from ecmf_pipeline.llm.client import Generated

DIGITS = 6
"""Decimals that are kept of a score."""

RAW = 2000
"""Characters that are kept of an answer that was not valid."""


class CacheRow(Protocol):
    """One line."""

    @property
    def key(self) -> str:
        """SHA-256 of what was asked about."""

    def line(self) -> str:
        """The line, with its end."""


@dataclass(frozen=True, slots=True)
class TextScores:
    """What a model said of one text.

    Attributes:
        key: SHA-256 of the text.
        scores: A score for each label, (K,), rounded to `DIGITS`.
        cut: Whether the text was too long and only its beginning was read.
        raw: The answers that were not valid, with the reason before each. Without scores: the model abstains.
    """

    key: str
    scores: tuple[float, ...]
    cut: bool = False
    raw: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str, scores: NDArray[np.float64], *, cut: bool = False) -> TextScores:
        """Scores of a text, rounded.

        Raises:
            ValueError: When a score is not finite.
        """
        if not np.isfinite(scores).all():
            raise ValueError(f"scores {scores} are not finite")
        return cls(sha256_text(text), tuple(np.round(scores, DIGITS).tolist()), cut)

    @classmethod
    def abstained(cls, text: str, raw: Sequence[str], *, cut: bool = False) -> TextScores:
        """A text on which every answer was invalid."""
        return cls(sha256_text(text), (), cut, tuple(answer[:RAW] for answer in raw))

    def line(self) -> str:
        """The line of the cache, with its end."""
        entry: dict[str, object] = {"key": self.key, "scores": list(self.scores)}
        entry |= ({"cut": True} if self.cut else {}) | ({"raw": list(self.raw)} if self.raw else {})
        return json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> TextScores:
        """Read a line.

        Raises:
            ValueError: When it is damaged.
        """
        try:
            entry = json.loads(line)
            scores, raw = tuple(map(float, entry["scores"])), tuple(map(str, entry.get("raw", ())))
            found = cls(entry["key"], scores, bool(entry.get("cut", False)), raw)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a line of scores: {line!r}") from error
        if not isinstance(found.key, str) or not all(map(math.isfinite, found.scores)):
            raise ValueError(f"not a line of scores: {line!r}")
        return found


@dataclass(frozen=True, slots=True)
class Written:
    """What a model filled in, kept as a line.

    Attributes:
        key: SHA-256 of the question.
        answer: The answer, or what was said instead of one.
    """

    key: str
    answer: Generated

    def line(self) -> str:
        """The line of the cache, with its end."""
        entry: dict[str, Any] = {"key": self.key}
        if self.answer.values is not None:
            entry["values"] = dict(self.answer.values)
        if self.answer.raw:
            entry["raw"] = [answer[:RAW] for answer in self.answer.raw]
        return json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> Written:
        """Read a line.

        Raises:
            ValueError: When it is damaged.
        """
        try:
            entry = json.loads(line)
            values, raw = entry.get("values"), tuple(map(str, entry.get("raw", ())))
            if values is not None:
                values = {
                    str(name): tuple(map(str, value)) if isinstance(value, list) else value
                    for name, value in values.items()
                }
            found = cls(entry["key"], Generated(values, raw))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a line of answers: {line!r}") from error
        if not isinstance(found.key, str) or (values is None and not raw):
            raise ValueError(f"not a line of answers: {line!r}")
        return found
