"""The lines of the transcripts' cache."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heard:
    """What a model has heard in one file.

    Attributes:
        key: SHA-256 of the file.
        text: The words on one line; empty where it has heard none.
        confidence: Mean log-probability of its tokens, the sign that ends them included.
        language: Code of the language.
    """

    key: str
    text: str
    confidence: float
    language: str

    def line(self) -> str:
        """The line of the cache, with its end."""
        entry = {"key": self.key, "text": self.text, "confidence": self.confidence, "language": self.language}
        return json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> Heard:
        """Read a line.

        Raises:
            ValueError: When it is damaged.
        """
        entry = json.loads(line)
        try:
            found = cls(entry["key"], entry["text"], float(entry["confidence"]), entry["language"])
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a line of transcripts: {line!r}") from error
        words = (found.key, found.text, found.language)
        if not all(isinstance(word, str) for word in words) or not math.isfinite(found.confidence):
            raise ValueError(f"not a line of transcripts: {line!r}")
        return found
