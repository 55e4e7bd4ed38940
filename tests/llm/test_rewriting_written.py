"""The written rewrite: the original words stand, cues are quoted, a broken answer says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.llm.config import LlmConfig, RewriteConfig
from ecmf_pipeline.llm.prompt import CUES, Context, RewritePrompt, load_rewrite_prompt, packaged_rewrite_prompts
from ecmf_pipeline.llm.rewriting import Rewritten, enrich_texts, enrich_with_answer, generate_rewrites
from tests.llm.fault_server import books, server_config, serving

PROMPTS = [load_rewrite_prompt(name) for name in packaged_rewrite_prompts()]
EN = load_rewrite_prompt("rewrite_en")


def answer(cues: str = "", emotions: tuple[str, ...] = (), clarity: str = "clear") -> dict[str, Any]:
    return {"cues": cues, "emotions": emotions, "clarity": clarity}


def said(**values: Any) -> str:
    return "content: " + json.dumps({"cues": "", "emotions": [], "clarity": "unclear"} | values)


def write(folder: Path, contexts: dict[str, Context], config: LlmConfig) -> Rewritten:
    return generate_rewrites(contexts, config=config, prompt=EN, books=books(folder))


def test_there_are_prompts_in_both_languages() -> None:
    assert list(packaged_rewrite_prompts()) == ["rewrite_en", "rewrite_zh"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_examples_of_a_prompt_keep_to_its_schema_and_quote(prompt: RewritePrompt) -> None:
    for example in prompt.examples:
        values = prompt.schema_of_answers().read(json.dumps(example.answer.model_dump(mode="json")))
        worded = enrich_with_answer(Context(example.text, cues=example.cues), values, prompt)
        assert worded.unquoted == 0
        assert worded.unclear is (example.answer.clarity == "unclear")
    assert set(prompt.cue_words) == set(CUES)
    assert len(set(prompt.cue_words.values())) == len(CUES)


@pytest.mark.parametrize(
    ("values", "text", "unquoted"),
    [
        (answer("I miss; so much", ("sad",)), '"I miss her so much." The speaker sounds sad (I miss, so much).', 0),
        (answer("SO MUCH.; I miss", ("sad", "lonely")), "The speaker sounds sad and lonely (SO MUCH, I miss).", 0),
        (answer("loss of her mother; tears", ("sad",)), '"I miss her so much." The speaker sounds sad.', 2),
        (answer("brows lowered", ("angry",)), "The speaker sounds angry (brows lowered).", 0),
        (answer("", (), "unclear"), '"I miss her so much." The words leave the emotion unclear.', 0),
        (answer("I miss", ("sad",), "unclear"), "The words leave the emotion unclear.", 0),
        (answer("I miss", (), "clear"), "The words leave the emotion unclear.", 0),
        (None, "I miss her so much.", 0),
    ],
)
def test_a_cue_is_told_only_where_it_can_be_quoted(values: dict[str, Any] | None, text: str, unquoted: int) -> None:
    context = Context("I miss her so much.", before=("The loss of her mother.",), cues=("brows lowered",))
    worded = enrich_with_answer(context, values, EN)
    assert worded.text.endswith(text)
    assert worded.text.startswith('"I miss her so much."' if values else "I miss her so much.")
    assert worded.unquoted == unquoted


@hypothesis.settings(deadline=None)
@given(st.text(), st.text(max_size=160), st.sampled_from(PROMPTS), st.sampled_from(["clear", "unclear"]))
def test_the_original_words_are_always_there(text: str, cues: str, prompt: RewritePrompt, clarity: str) -> None:
    worded = enrich_with_answer(Context(text), answer(cues, (prompt.emotions[0],), clarity), prompt)
    assert text.strip() in worded.text


@hypothesis.settings(deadline=None)
@given(st.text())
def test_what_is_shown_cannot_leave_its_marks(text: str) -> None:
    shown = EN.messages(Context(text, before=(text,), after=(text,)))[-1]["content"]
    assert shown.count("<") == shown.count(">") == 6
    assert shown.count("\n") == 2


def test_neighbours_and_cues_are_shown_and_count_as_the_question(tmp_path: Path) -> None:
    alone = {"a": Context("Fine.")}
    more = {"a": Context("Fine.", before=("You forgot it.",), after=("Sorry!",), cues=("brows lowered",))}
    with serving(lambda *_: said()) as server:
        config = server_config(server.url)
        assert write(tmp_path, alone, config).asked == 1
        assert write(tmp_path, more, config).asked == 1
        assert write(tmp_path, {**more, "b": more["a"]}, config).asked == 0
        shown = [body["messages"][-1]["content"] for body in server.requests]
    assert shown == [
        "<utterance>Fine.</utterance>",
        "<before>You forgot it.</before>\n<utterance>Fine.</utterance>\n<after>Sorry!</after>\n"
        "<face_and_voice>brows lowered</face_and_voice>",
    ]


def test_an_invalid_answer_is_asked_for_once_more_then_the_original_stands_alone(tmp_path: Path) -> None:
    jubilant = said(emotions=["jubilant"], clarity="clear")
    happy = said(cues="what a day", emotions=["happy"], clarity="clear")
    with serving(lambda text, n: jubilant if text == "No." or n == 0 else happy) as server:
        found = write(tmp_path, {"a": Context("Oh, what a day!"), "b": Context("No.")}, server_config(server.url))
        assert len(server.received) == 4
        again = write(tmp_path, {"a": Context("Oh, what a day!"), "b": Context("No.")}, server_config(server.url))
        assert len(server.received) == 4
    assert found.texts == again.texts == {"a": '"Oh, what a day!" The speaker sounds happy (what a day).', "b": "No."}
    assert (found.invalid, found.unclear, found.asked, again.cached) == (1, 0, 2, 2)
    assert any("jubilant" in path.read_text() for path in (tmp_path / "cache").rglob("*.jsonl")), "the raw answer"


@pytest.mark.parametrize(
    "change",
    [{"emotions": ["jubilant"]}, {"emotions": "happy"}, {"clarity": None}, {"more": 1}, {"cues": "so " * 100}],
)
def test_a_kept_answer_that_its_form_forbids_is_asked_again(tmp_path: Path, change: dict[str, Any]) -> None:
    contexts = {"a": Context("Oh, what a day!"), "b": Context("No.")}
    with serving(lambda *_: said(emotions=["happy"], clarity="clear")) as server:
        first = write(tmp_path, contexts, server_config(server.url))
        (part,) = (tmp_path / "cache").rglob("*.jsonl")
        damaged, whole = map(json.loads, part.read_text().splitlines())
        values = {name: value for name, value in (damaged["values"] | change).items() if value is not None}
        part.write_text("".join(json.dumps(row) + "\n" for row in (damaged | {"values": values}, whole)))
        again = write(tmp_path, contexts, server_config(server.url))
        assert len(server.received) == 3
        assert write(tmp_path, contexts, server_config(server.url)).asked == 0
    assert again.texts == first.texts
    assert (again.asked, again.cached, again.invalid) == (1, 1, 0)


def test_long_words_are_cut_for_the_model_and_whole_in_the_text(tmp_path: Path) -> None:
    long = "word " * 300 + "end"
    with serving(lambda *_: said()) as server:
        found = write(tmp_path, {"a": Context(long)}, server_config(server.url))
        assert len(server.requests[0]["messages"][-1]["content"]) < 600
    assert long in found.texts["a"]
    assert found.cut == 1


def test_a_local_model_writes_too(tiny: LlmConfig, tmp_path: Path) -> None:
    prompt = EN.model_copy(update={"instruction": "Emotions: {emotions}", "examples": ()})
    config = tiny.model_copy(update={"workers": 0})
    contexts = {"a": Context("I miss her."), "b": Context("Go away!")}
    found = generate_rewrites(contexts, config=config, prompt=prompt, books=books(tmp_path))
    assert (found.asked, found.invalid, found.quarantined) == (2, 0, 0)
    assert all(context.text in found.texts[clip] for clip, context in contexts.items())
    again = generate_rewrites(contexts, config=config, prompt=prompt, books=books(tmp_path))
    assert (again.texts, again.asked) == (found.texts, 0)


def test_cues_are_told_after_a_scored_rewrite(tiny: LlmConfig, tmp_path: Path) -> None:
    contexts = {"a": Context("I miss her.", cues=("brows lowered", "voice louder than usual")), "b": Context("Hm.")}
    config = tiny.model_copy(update={"workers": 0})
    found = enrich_texts(config, RewriteConfig(), contexts, ("happy", "sad"), books=books(tmp_path))
    assert found.texts["a"].endswith(". Face and voice: brows lowered, voice louder than usual.")
    assert "Face and voice" not in found.texts["b"]


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    document = yaml.safe_load(packaged_rewrite_prompts()["rewrite_en"].read_text(encoding="utf-8"))
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(document | {"version": 7}))
    prompt = load_rewrite_prompt(str(own))
    assert prompt.settings() != EN.settings()
    assert EN.model_copy(update={"cue_words": {}}).settings() == EN.settings(), "they are part of what is shown"
    for change in (
        {"instruction": "no places"},
        {"emotions": ["sad"]},
        {"cue_words": {}},
        {"marks": document["marks"] | {"before": "{words}"}},
        {"emotions": ["happy", "glad"]},  # the examples name others
        {"more": 1},
    ):
        own.write_text(yaml.safe_dump(document | change))
        with pytest.raises(ParamsError, match=r"own.yaml is not a prompt"):
            load_rewrite_prompt(str(own))
    for name in ("rewrite_fr", str(tmp_path / "none.yaml")):
        with pytest.raises(ParamsError, match=r"rewrite\.prompt"):
            load_rewrite_prompt(name)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"neighbours": 2}, "set rewrite.how to written"),
        ({"dialogues": "("}, "no regular expression"),
        ({"dialogues": r"(?P<dialogue>.+)_\d+"}, "must have the groups"),
        ({"how": "dreamt"}, "scored"),
    ],
)
def test_settings_that_do_nothing_are_errors(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RewriteConfig.model_validate(wrong)
