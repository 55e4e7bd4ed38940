"""Validation of answers."""

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


def test_a_valid_answer_is_parsed() -> None:
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
def test_invalid_values_raise_invalid_answer(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidAnswer):
        FORM.read(json.dumps({**GOOD, **change}))


@pytest.mark.parametrize(
    "content",
    ["", "happy", "[]", "null", json.dumps(GOOD)[:-5], json.dumps([GOOD]), "[" * 100_000, json.dumps(GOOD) + " so"],
)
def test_other_content_raises_invalid_answer(content: str) -> None:
    with pytest.raises(InvalidAnswer):
        FORM.read(content)


def test_duplicate_keys_and_nan_raise_invalid_answer() -> None:
    with pytest.raises(InvalidAnswer, match="twice"):
        Schema.of(label=OneOf(("a", "b"))).read('{"label": "a", "label": "b"}')
    with pytest.raises(InvalidAnswer, match="not JSON"):
        Schema.of(n=Text(9)).read('{"n": NaN}')


def test_the_json_schema_uses_only_common_keywords() -> None:
    schema = FORM.json_schema()
    assert schema["required"] == list(schema["properties"]) == [name for name, _ in FORM.fields]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["emotion"] == {"type": "string", "enum": ["happy", "sad"]}
    assert {kind["type"] for kind in schema["properties"].values()} == {"string", "array"}


def test_settings_are_json_and_distinct_for_distinct_schemas() -> None:
    others = [Schema.of(a=Text(7)), Schema.of(a=Text(8)), Schema.of(b=Text(7)), Schema.of(a=Text(7), b=Text(7))]
    assert len({json.dumps(schema.settings()) for schema in others}) == 4
    assert pickle.loads(pickle.dumps(FORM)) == FORM


@pytest.mark.parametrize("words", [("one",), ("same", "same"), ('a "b"', "c"), ("a\nb", "c"), ("", "c")])
def test_ambiguous_words_raise_value_error(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="distinct words"):
        OneOf(words)
