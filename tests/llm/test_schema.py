"""What an answer may look like, and what is refused."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from ecmf_pipeline.llm.schema import InvalidAnswer, OneOf, Schema, SomeOf, Text

FORM = Schema.of(
    emotion=OneOf(("happy", "sad")),
    cues=SomeOf(("crying", "laughter", "sighs"), most=2),
    why=Text(20),
)
GOOD: dict[str, Any] = {"emotion": "sad", "cues": ["crying"], "why": "she cries"}


def test_a_good_answer_is_read() -> None:
    expected = {**GOOD, "cues": ("crying",)}
    assert FORM.read(json.dumps(GOOD)) == expected
    assert FORM.read(f"```json\n{json.dumps(GOOD)}\n```") == expected
    assert FORM.read(json.dumps({**GOOD, "cues": ["sighs", "sighs"], "why": " a\n b\u0007"})) == {
        **expected,
        "cues": ("sighs",),
        "why": "a b",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"emotion": "jubilant"},
        {"emotion": None},
        {"emotion": ["sad"]},
        {"cues": "crying"},
        {"cues": ["crying", "laughter", "sighs"]},
        {"cues": ["shouting"]},
        {"why": ""},
        {"why": "x" * 21},
        {"why": 7},
        {"more": 1},
    ],
)
def test_anything_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidAnswer):
        FORM.read(json.dumps({**GOOD, **change}))


@pytest.mark.parametrize(
    "content",
    ["", "happy", "[]", "null", json.dumps(GOOD)[:-5], json.dumps([GOOD]), "[" * 100_000, json.dumps(GOOD) + " so"],
)
def test_what_is_no_such_object_is_refused(content: str) -> None:
    with pytest.raises(InvalidAnswer):
        FORM.read(content)


def test_a_key_that_stands_twice_and_numbers_beyond_json_are_refused() -> None:
    with pytest.raises(InvalidAnswer, match="twice"):
        Schema.of(label=OneOf(("a", "b"))).read('{"label": "a", "label": "b"}')
    with pytest.raises(InvalidAnswer, match="not JSON"):
        Schema.of(n=Text(9)).read('{"n": NaN}')


def test_the_json_schema_is_of_what_every_server_understands() -> None:
    schema = FORM.json_schema()
    assert schema["required"] == list(schema["properties"]) == [name for name, _ in FORM.fields]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["emotion"] == {"type": "string", "enum": ["happy", "sad"]}
    assert {kind["type"] for kind in schema["properties"].values()} == {"string", "array"}


def test_settings_tell_schemas_apart_and_are_json() -> None:
    others = [Schema.of(a=Text(7)), Schema.of(a=Text(8)), Schema.of(b=Text(7)), Schema.of(a=Text(7), b=Text(7))]
    assert len({json.dumps(schema.settings()) for schema in others}) == 4
    assert pickle.loads(pickle.dumps(FORM)) == FORM


@pytest.mark.parametrize("words", [("one",), ("same", "same"), ('a "b"', "c"), ("a\nb", "c"), ("", "c")])
def test_words_that_could_not_be_told_apart_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="different words"):
        OneOf(words)
