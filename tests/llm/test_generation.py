"""Forms about many clips from a faulty server and from a local model: each question once, no wrong answer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import BudgetSpent
from ecmf_pipeline.llm.answers import AnswerCache, FormAnswer, open_drafts
from ecmf_pipeline.llm.config import BudgetConfig, LlmConfig
from ecmf_pipeline.llm.generation import FilledForms, fill_in_forms, generation_settings
from ecmf_pipeline.llm.prompt import Chat, load_prompt, question_key
from ecmf_pipeline.llm.schema import OneOf, Schema, SomeOf, Text
from ecmf_pipeline.llm.scoring import score_texts, scoring_steps
from ecmf_pipeline.llm.server_run import Budget
from tests.llm.fault_server import (
    WORDS,
    answer_files,
    frequent_fault,
    numbered_texts,
    server_config,
    serving,
    true_label,
)

FORM = Schema.of(label=OneOf(WORDS))
PROMPT = {"version": 1}


def chats(texts: list[str]) -> dict[str, Chat]:
    return {
        f"c{number}": [{"role": "user", "content": f"<utterance>{text}</utterance>"}]
        for number, text in enumerate(texts)
    }


def fill_in(folder: Path, questions: Mapping[str, Chat], config: LlmConfig, schema: Schema = FORM) -> FilledForms:
    return fill_in_forms(config, questions, schema, prompt=PROMPT, answer_files=answer_files(folder))


def test_no_wrong_answer_is_accepted_and_no_answer_is_paid_twice(tmp_path: Path) -> None:
    texts = numbered_texts(60)
    with serving(lambda text, n: "ok" if (fault := frequent_fault(text, n)) == "hang" else fault) as server:
        result = fill_in(tmp_path, chats([*texts, texts[0]]), server_config(server.url))
        answered = {clip: values["label"] for clip, values in result.values.items() if values is not None}
        assert {**answered} == {clip: WORDS[true_label((texts * 2)[int(clip[1:])])] for clip in answered}
        assert (result.answered, result.cached, result.quarantined) == (60, 0, 0)
        assert result.invalid == 61 - len(answered) < 15
        assert max(server.paid.values()) == 1
        before = len(server.received)
        again = fill_in(tmp_path, chats([*texts, texts[0]]), server_config(server.url))
        assert len(server.received) == before
    assert (again.values, again.cached, again.invalid) == (result.values, 60, result.invalid)


def test_an_invalid_answer_is_requested_once_more_and_stored(tmp_path: Path) -> None:
    with serving(lambda text, n: "wrong label" if text == "line 1" or n == 0 else "ok") as server:
        result = fill_in(tmp_path, chats(numbered_texts(2)), server_config(server.url))
        assert [body["temperature"] for body in server.requests if body["messages"][0]["content"].count("0")] == [
            0,
            0.7,
        ]
    assert result.values == {"c0": {"label": "neutral"}, "c1": None}
    assert result.invalid == 1
    (folder,) = (tmp_path / "cache").iterdir()
    cache = AnswerCache(tmp_path / "cache", folder.name, FormAnswer.parse)
    (raw, again) = cache[question_key(chats(numbered_texts(2))["c1"])].raw
    assert raw == again == 'label is none of the words that were asked for: {"label": "jubilant"}'


def test_a_run_stops_at_the_budget_and_the_next_one_continues(tmp_path: Path) -> None:
    with serving(lambda *_: "ok") as server:
        with pytest.raises(BudgetSpent):
            fill_in(tmp_path, chats(numbered_texts(30)), server_config(server.url, BudgetConfig(max_requests=10)))
        result = fill_in(tmp_path, chats(numbered_texts(30)), server_config(server.url))
        assert len(server.received) == 30
    assert (result.cached, result.answered) == (10, 20)


def test_invalid_answers_are_not_requested_again_by_the_next_run(tmp_path: Path) -> None:
    with serving(lambda *_: "wrong label") as server:
        config = server_config(server.url, BudgetConfig(max_requests=1))
        with pytest.raises(BudgetSpent):
            fill_in(tmp_path, chats(numbered_texts(1)), config)
        assert fill_in(tmp_path, chats(numbered_texts(1)), config).invalid == 1
    assert ["seed" in body for body in server.requests] == [False, True]


def test_calls_of_one_run_can_share_a_budget(tmp_path: Path) -> None:
    budget, prompt = Budget(BudgetConfig(max_requests=7)), load_prompt("emotion_en")

    def score(folder: str, texts: list[str]) -> int:
        answer_paths = answer_files(tmp_path / folder)
        steps = scoring_steps(config, prompt, WORDS, drafts=partial(open_drafts, answer_paths, "f"), budget=budget)
        utterances = dict(zip(texts, texts, strict=True))
        return score_texts(
            utterances, WORDS, fingerprint="f", answer_files=answer_paths, steps=steps, config=config
        ).answered

    with serving(lambda *_: "ok") as server:
        config = server_config(server.url, concurrency=1)
        assert score("a", numbered_texts(5)) == 5
        with pytest.raises(BudgetSpent) as caught:
            score("b", numbered_texts(5))
        assert "7" in caught.value.message
        assert len(server.received) == 7


def test_answers_of_a_local_model_are_cached(tiny: LlmConfig, tmp_path: Path) -> None:
    form = Schema.of(cues=SomeOf(WORDS, most=2), why=Text(12))
    config = tiny.model_copy(update={"workers": 0, "batch_size": 2})
    questions = chats([*numbered_texts(3), "far too long " * 400, "line 0"])
    result = fill_in(tmp_path, questions, config.model_copy(update={"max_quarantined": 0.5}), form)
    assert (result.answered, result.quarantined, result.values["c3"]) == (3, 1, None)
    assert "RequestRefused" in (tmp_path / "quarantine.csv").read_text()
    assert result.values["c0"] == result.values["c4"] is not None
    again = fill_in(
        tmp_path, questions, config.model_copy(update={"model": str(config.model), "max_quarantined": 0.5}), form
    )
    assert (again.values, again.answered, again.cached) == (result.values, 0, 3)


def test_answers_round_trip_through_lines() -> None:
    for row in (
        FormAnswer("0" * 64, {"cues": ("a", "b"), "why": "她说"}),
        FormAnswer("0" * 64, None, ("not JSON: x",)),
        FormAnswer("0" * 64, {"label": "sad"}, ("not JSON: x",)),
    ):
        assert FormAnswer.parse(row.line().encode()) == row
    for damaged in (b"{}", b'{"key": "k"}', b"[]", b'{"key": 3, "values": {}}', b'{"key": "k", "values": 3}', b"{"):
        with pytest.raises(ValueError):  # noqa: PT011 - the type is the contract of `parse`
            FormAnswer.parse(damaged)


def test_settings_contain_only_what_changes_an_answer(tiny: LlmConfig) -> None:
    base = generation_settings(tiny, FORM, PROMPT)
    assert generation_settings(tiny.model_copy(update={"workers": 3, "batch_size": 9}), FORM, PROMPT) == base
    server = server_config("http://here:1/v1")
    others = [
        base,
        generation_settings(tiny, Schema.of(label=OneOf(("a", "b"))), PROMPT),
        generation_settings(tiny, FORM, {"version": 2}),
        generation_settings(tiny.model_copy(update={"dtype": "bfloat16"}), FORM, PROMPT),
        generation_settings(server, FORM, PROMPT),
        generation_settings(server_config("http://here:1/v1", structured="none"), FORM, PROMPT),
    ]
    assert len({str(other) for other in others}) == len(others)
    assert generation_settings(server_config("http://there:2/v1"), FORM, PROMPT) == others[4]
