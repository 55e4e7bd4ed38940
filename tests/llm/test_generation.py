"""Forms filled in for many clips, by a server that fails and by a local model: each question once, none wrong."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import BudgetSpent
from ecmf_pipeline.llm.answers import AnswerCache, Written, open_drafts
from ecmf_pipeline.llm.config import BudgetConfig, LlmConfig
from ecmf_pipeline.llm.generation import FilledForms, fill_in_forms, generation_settings
from ecmf_pipeline.llm.prompt import Chat, load_prompt, question_key
from ecmf_pipeline.llm.schema import OneOf, Schema, SomeOf, Text
from ecmf_pipeline.llm.scoring import score_texts, scoring_steps
from ecmf_pipeline.llm.server_run import Budget
from tests.llm.fault_server import WORDS, books, lines, often_faulty, serving, settings, truth

FORM = Schema.of(label=OneOf(WORDS))
PROMPT = {"version": 1}


def chats(texts: list[str]) -> dict[str, Chat]:
    return {
        f"c{number}": [{"role": "user", "content": f"<utterance>{text}</utterance>"}]
        for number, text in enumerate(texts)
    }


def ask(folder: Path, questions: Mapping[str, Chat], config: LlmConfig, schema: Schema = FORM) -> FilledForms:
    return fill_in_forms(config, questions, schema, prompt=PROMPT, books=books(folder))


def test_no_wrong_answer_is_accepted_and_none_is_paid_twice(tmp_path: Path) -> None:
    texts = lines(60)
    with serving(lambda text, n: "ok" if (fault := often_faulty(text, n)) == "hang" else fault) as server:
        found = ask(tmp_path, chats([*texts, texts[0]]), settings(server.url))
        answered = {clip: values["label"] for clip, values in found.values.items() if values is not None}
        assert {**answered} == {clip: WORDS[truth((texts * 2)[int(clip[1:])])] for clip in answered}
        assert (found.asked, found.cached, found.quarantined) == (60, 0, 0)
        assert found.invalid == 61 - len(answered) < 15
        assert max(server.paid.values()) == 1
        before = len(server.asked)
        again = ask(tmp_path, chats([*texts, texts[0]]), settings(server.url))
        assert len(server.asked) == before
    assert (again.values, again.cached, again.invalid) == (found.values, 60, found.invalid)


def test_an_invalid_answer_is_asked_for_once_more_and_kept(tmp_path: Path) -> None:
    with serving(lambda text, n: "wrong label" if text == "line 1" or n == 0 else "ok") as server:
        found = ask(tmp_path, chats(lines(2)), settings(server.url))
        assert [body["temperature"] for body in server.requests if body["messages"][0]["content"].count("0")] == [
            0,
            0.7,
        ]
    assert found.values == {"c0": {"label": "neutral"}, "c1": None}
    assert found.invalid == 1
    (folder,) = (tmp_path / "cache").iterdir()
    cache = AnswerCache(tmp_path / "cache", folder.name, Written.parse)
    (raw, again) = cache[question_key(chats(lines(2))["c1"])].raw
    assert raw == again == 'label is none of the words that were asked for: {"label": "jubilant"}'


def test_a_budget_stops_cleanly(tmp_path: Path) -> None:
    with serving(lambda *_: "ok") as server:
        with pytest.raises(BudgetSpent):
            ask(tmp_path, chats(lines(30)), settings(server.url, BudgetConfig(max_requests=10)))
        found = ask(tmp_path, chats(lines(30)), settings(server.url))
        assert len(server.asked) == 30
    assert (found.cached, found.asked) == (10, 20)


def test_an_answer_that_was_not_valid_is_paid_for_once(tmp_path: Path) -> None:
    with serving(lambda *_: "wrong label") as server:
        config = settings(server.url, BudgetConfig(max_requests=1))
        with pytest.raises(BudgetSpent):
            ask(tmp_path, chats(lines(1)), config)
        assert ask(tmp_path, chats(lines(1)), config).invalid == 1
    assert ["seed" in body for body in server.requests] == [False, True]


def test_loops_of_one_run_may_share_a_budget(tmp_path: Path) -> None:
    budget, prompt = Budget(BudgetConfig(max_requests=7)), load_prompt("emotion_en")

    def score(folder: str, texts: list[str]) -> int:
        at = books(tmp_path / folder)
        steps = scoring_steps(config, prompt, WORDS, drafts=partial(open_drafts, at, "f"), budget=budget)
        utterances = dict(zip(texts, texts, strict=True))
        return score_texts(utterances, WORDS, fingerprint="f", books=at, steps=steps, config=config).asked

    with serving(lambda *_: "ok") as server:
        config = settings(server.url, concurrency=1)
        assert score("a", lines(5)) == 5
        with pytest.raises(BudgetSpent, match="7 requests"):
            score("b", lines(5))
        assert len(server.asked) == 7


def test_a_local_model_answers_in_workers_and_is_not_asked_again(tiny: LlmConfig, tmp_path: Path) -> None:
    form = Schema.of(cues=SomeOf(WORDS, most=2), why=Text(12))
    config = tiny.model_copy(update={"workers": 0, "batch_size": 2})
    questions = chats([*lines(3), "far too long " * 400, "line 0"])
    found = ask(tmp_path, questions, config.model_copy(update={"max_quarantined": 0.5}), form)
    assert (found.asked, found.quarantined, found.values["c3"]) == (3, 1, None)
    assert "RequestRefused" in (tmp_path / "quarantine.csv").read_text()
    assert found.values["c0"] == found.values["c4"] is not None
    again = ask(
        tmp_path, questions, config.model_copy(update={"model": str(config.model), "max_quarantined": 0.5}), form
    )
    assert (again.values, again.asked, again.cached) == (found.values, 0, 3)


def test_lines_are_read_as_they_were_written() -> None:
    for row in (
        Written("0" * 64, {"cues": ("a", "b"), "why": "她说"}),
        Written("0" * 64, None, ("not JSON: x",)),
        Written("0" * 64, {"label": "sad"}, ("not JSON: x",)),
    ):
        assert Written.parse(row.line().encode()) == row
    for damaged in (b"{}", b'{"key": "k"}', b"[]", b'{"key": 3, "values": {}}', b'{"key": "k", "values": 3}', b"{"):
        with pytest.raises(ValueError, match=r"not a line|validation error"):
            Written.parse(damaged)


def test_the_settings_follow_what_changes_an_answer(tiny: LlmConfig) -> None:
    base = generation_settings(tiny, FORM, PROMPT)
    assert generation_settings(tiny.model_copy(update={"workers": 3, "batch_size": 9}), FORM, PROMPT) == base
    server = settings("http://here:1/v1")
    others = [
        base,
        generation_settings(tiny, Schema.of(label=OneOf(("a", "b"))), PROMPT),
        generation_settings(tiny, FORM, {"version": 2}),
        generation_settings(tiny.model_copy(update={"dtype": "bfloat16"}), FORM, PROMPT),
        generation_settings(server, FORM, PROMPT),
        generation_settings(settings("http://here:1/v1", structured="none"), FORM, PROMPT),
    ]
    assert len({str(other) for other in others}) == len(others)
    assert generation_settings(settings("http://there:2/v1"), FORM, PROMPT) == others[4]
