"""The form of an answer: one JSON object of a few simple fields, the same for a server and for a local model.

A server is sent it as a JSON schema and may disregard it, so what comes back is read here; a local model cannot leave
it, since `local_generation` writes all but the values itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Value = str | tuple[str, ...]
_FENCE = re.compile(r"\s*```(?:json)?\s*(\{.*\})\s*```\s*", re.DOTALL)
_PLAIN = re.compile(r'[^"\x00-\x1f\x7f]+')
_FRAME = 8
"""Tokens of a field's name and the signs around it, about."""


class InvalidAnswer(Exception):
    """The answer is not what the schema allows.

    Args:
        reason: What is wrong.
    """


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of some words.

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

    def most_tokens(self) -> int:
        """See `Schema.most_tokens`."""
        return max(len(word.encode()) for word in self.words)


@dataclass(frozen=True, slots=True)
class SomeOf:
    """Several of some words, or none of them.

    Attributes:
        words: The words, as those of `OneOf`.
        most: How many an answer may name.
    """

    words: tuple[str, ...]
    most: int

    def __post_init__(self) -> None:
        _check_words(self.words)

    def json_schema(self) -> dict[str, Any]:
        """See `Schema.json_schema`."""
        return {"type": "array", "items": OneOf(self.words).json_schema()}

    def read(self, value: Any) -> tuple[str, ...]:
        """See `Schema.read`; a word that is named twice counts once."""
        if not isinstance(value, list):
            raise InvalidAnswer("is no list")
        found = tuple(dict.fromkeys(OneOf(self.words).read(word) for word in value))
        if len(found) > self.most:
            raise InvalidAnswer(f"names more than {self.most} words")
        return found

    def most_tokens(self) -> int:
        """See `Schema.most_tokens`."""
        return sum(sorted((len(word.encode()) + 4 for word in self.words), reverse=True)[: self.most])


@dataclass(frozen=True, slots=True)
class Text:
    """A text on one line.

    Attributes:
        longest: Most characters. A local model's text ends there, at a word; a server's longer one is invalid.
        empty: Whether it may be empty.
    """

    longest: int
    empty: bool = False

    def json_schema(self) -> dict[str, Any]:
        """See `Schema.json_schema`; several servers refuse a schema that limits lengths, so the prompt must tell it."""
        return {"type": "string"}

    def read(self, value: Any) -> str:
        """See `Schema.read`."""
        if not isinstance(value, str):
            raise InvalidAnswer("is no text")
        text = " ".join("".join(sign if sign.isprintable() else " " for sign in value).split())
        if len(text) > self.longest or not (text or self.empty):
            raise InvalidAnswer(f"has {len(text)} characters, {self.longest} are allowed")
        return text

    def most_tokens(self) -> int:
        """See `Schema.most_tokens`."""
        return self.longest


Kind = OneOf | SomeOf | Text


@dataclass(frozen=True, slots=True)
class Schema:
    """What an answer consists of; picklable.

    Attributes:
        fields: Each field's name and kind, in the order in which they are written: what comes later is written with
            what came before in view.
    """

    fields: tuple[tuple[str, Kind], ...]

    @classmethod
    def of(cls, **fields: Kind) -> Schema:
        """A schema of these fields, in this order."""
        return cls(tuple(fields.items()))

    def json_schema(self) -> dict[str, Any]:
        """The same as a JSON schema, of what every server understands."""
        return {
            "type": "object",
            "properties": {name: kind.json_schema() for name, kind in self.fields},
            "required": [name for name, _ in self.fields],
            "additionalProperties": False,
        }

    def read(self, content: str) -> dict[str, Value]:
        """The values of an answer.

        Raises:
            InvalidAnswer: When the answer is anything but what the schema allows.
        """
        found = read_object(content, {name for name, _ in self.fields})
        values: dict[str, Value] = {}
        for name, kind in self.fields:
            try:
                values[name] = kind.read(found[name])
            except InvalidAnswer as error:
                raise InvalidAnswer(f"{name} {error}") from None
        return values

    def most_tokens(self) -> int:
        """Tokens that an answer takes at most, about, whatever the tokenizer."""
        return sum(_FRAME + kind.most_tokens() for _, kind in self.fields)

    def settings(self) -> list[Any]:
        """The schema's part of a fingerprint."""
        return [[name, type(kind).__name__, json.loads(json.dumps(asdict(kind)))] for name, kind in self.fields]


def _check_words(words: Sequence[str]) -> None:
    if len(set(words)) < max(2, len(words)) or not all(_PLAIN.fullmatch(word) for word in words):
        raise ValueError(f"{words} are not two or more different words without quotation marks")


def read_object(content: str, keys: set[str]) -> Mapping[str, Any]:
    """The JSON object that an answer consists of, in a Markdown fence or not.

    Raises:
        InvalidAnswer: When it is anything else, has other keys, or one of them twice.
    """
    fenced = _FENCE.fullmatch(content)
    try:
        found = json.loads(
            fenced[1] if fenced else content, object_pairs_hook=_once_each, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise InvalidAnswer("not JSON") from error
    if not isinstance(found, dict) or set(found) != keys:
        raise InvalidAnswer(f"not an object with the keys {', '.join(sorted(keys))}")
    return found


def _once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise InvalidAnswer("has a key twice")
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model filled in.

    Attributes:
        values: The value of each field; None where every answer was invalid: the model abstains.
        raw: The answers that were not valid, each with the reason before it.
    """

    values: Mapping[str, Value] | None
    raw: tuple[str, ...] = ()
