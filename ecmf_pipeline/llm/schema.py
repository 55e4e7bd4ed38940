"""The form of an answer: one JSON object with a few simple fields, the same for a server and for a local model.

A server receives it as a JSON schema and may ignore it, so each answer is validated here. A local model cannot violate
it: `local_generation` writes everything except the values itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Value = str | tuple[str, ...]
_FENCE = re.compile(r"\s*```(?:json)?\s*(\{.*\})\s*```\s*", re.DOTALL)
_WORD = re.compile(r'[^"\x00-\x1f\x7f]+')
_FIELD_OVERHEAD = 8
"""Estimated tokens of the name of a field and its punctuation."""


class InvalidAnswer(Exception):
    """An answer violates its schema.

    Args:
        reason: The violation. It is stored with the raw answer.
    """


@dataclass(frozen=True, slots=True)
class OneOf:
    """A field with one of several words.

    Attributes:
        words: The words, without quotation marks or line breaks.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_words(self.words)

    def json_schema(self) -> dict[str, Any]:
        """See `Schema.json_schema`."""
        return {"type": "string", "enum": list(self.words)}

    def read(self, value: Any) -> str:
        """See `Schema.read`."""
        if not isinstance(value, str) or value not in self.words:
            raise InvalidAnswer("is none of the words that were asked for")
        return value

    def max_answer_tokens(self) -> int:
        """See `Schema.max_answer_tokens`."""
        return max(len(word.encode()) for word in self.words)


@dataclass(frozen=True, slots=True)
class SomeOf:
    """A field with several of the words, or none.

    Attributes:
        words: The words; see `OneOf`.
        most: Maximum number of words in an answer.
    """

    words: tuple[str, ...]
    most: int

    def __post_init__(self) -> None:
        _check_words(self.words)

    def json_schema(self) -> dict[str, Any]:
        """See `Schema.json_schema`."""
        return {"type": "array", "items": OneOf(self.words).json_schema()}

    def read(self, value: Any) -> tuple[str, ...]:
        """See `Schema.read`; repeated words count once."""
        if not isinstance(value, list):
            raise InvalidAnswer("is no list")
        words = tuple(dict.fromkeys(OneOf(self.words).read(word) for word in value))
        if len(words) > self.most:
            raise InvalidAnswer(f"names more than {self.most} words")
        return words

    def max_answer_tokens(self) -> int:
        """See `Schema.max_answer_tokens`."""
        return sum(sorted((len(word.encode()) + 4 for word in self.words), reverse=True)[: self.most])


@dataclass(frozen=True, slots=True)
class Text:
    """A field with a text of one line.

    Attributes:
        longest: Maximum number of characters. The text of a local model is truncated at a word; a longer text of a
            server is invalid.
        empty: Whether the text may be empty.
    """

    longest: int
    empty: bool = False

    def json_schema(self) -> dict[str, Any]:
        """See `Schema.json_schema`. The length is left to the prompt: several servers reject schemas that limit it."""
        return {"type": "string"}

    def read(self, value: Any) -> str:
        """See `Schema.read`."""
        if not isinstance(value, str):
            raise InvalidAnswer("is no text")
        text = " ".join("".join(char if char.isprintable() else " " for char in value).split())
        if len(text) > self.longest or not (text or self.empty):
            raise InvalidAnswer(f"has {len(text)} characters, {self.longest} are allowed")
        return text

    def max_answer_tokens(self) -> int:
        """See `Schema.max_answer_tokens`."""
        return self.longest


FieldKind = OneOf | SomeOf | Text


@dataclass(frozen=True, slots=True)
class Schema:
    """The fields of an answer; picklable.

    Attributes:
        fields: Name and kind of each field, in the order of writing: the model writes a later field with the earlier
            ones in its context.
    """

    fields: tuple[tuple[str, FieldKind], ...]

    @classmethod
    def of(cls, **fields: FieldKind) -> Schema:
        """Return a schema of these fields, in this order."""
        return cls(tuple(fields.items()))

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema, restricted to keywords that all servers support."""
        return {
            "type": "object",
            "properties": {name: kind.json_schema() for name, kind in self.fields},
            "required": [name for name, _ in self.fields],
            "additionalProperties": False,
        }

    def read(self, content: str) -> dict[str, Value]:
        """Return the values of an answer.

        Raises:
            InvalidAnswer: If the answer violates the schema.
        """
        answer = read_object(content, {name for name, _ in self.fields})
        values: dict[str, Value] = {}
        for name, kind in self.fields:
            try:
                values[name] = kind.read(answer[name])
            except InvalidAnswer as error:
                raise InvalidAnswer(f"{name} {error}") from None
        return values

    def max_answer_tokens(self) -> int:
        """Return an estimate of the maximum number of tokens of an answer, for any tokenizer."""
        return sum(_FIELD_OVERHEAD + kind.max_answer_tokens() for _, kind in self.fields)

    def settings(self) -> list[Any]:
        """Return the part of a fingerprint that describes the schema."""
        return [[name, type(kind).__name__, json.loads(json.dumps(asdict(kind)))] for name, kind in self.fields]


def _check_words(words: Sequence[str]) -> None:
    if len(set(words)) < max(2, len(words)) or not all(_WORD.fullmatch(word) for word in words):
        raise ValueError(f"{words} are not at least two distinct words without quotation marks")


def read_object(content: str, keys: set[str]) -> Mapping[str, Any]:
    """Parse an answer that consists of one JSON object, with or without a Markdown fence.

    Raises:
        InvalidAnswer: If it is not such an object, has other keys, or a key twice.
    """
    fenced = _FENCE.fullmatch(content)
    try:
        answer = json.loads(
            fenced[1] if fenced else content, object_pairs_hook=_reject_duplicate_keys, parse_constant=_reject_constant
        )
    except (ValueError, RecursionError) as error:
        raise InvalidAnswer("not JSON") from error
    if not isinstance(answer, dict) or set(answer) != keys:
        raise InvalidAnswer(f"not an object with the keys {', '.join(sorted(keys))}")
    return answer


def _reject_duplicate_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise InvalidAnswer("has a key twice")
    return dict(pairs)


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, slots=True)
class Generated:
    """The answer of a model to one question.

    Attributes:
        values: The value of each field; None if every answer was invalid and the model abstains.
        raw: The invalid answers, each with its reason in front.
    """

    values: Mapping[str, Value] | None
    raw: tuple[str, ...] = ()
