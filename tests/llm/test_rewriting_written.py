"""Written rewrites: the original words are unchanged, cues are quoted, invalid answers add nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.llm.config import LlmConfig, RewriteConfig
from ecmf_pipeline.llm.prompt import CUES, Context, RewritePrompt, load_rewrite_prompt, packaged_rewrite_prompts
from ecmf_pipeline.llm.rewriting import RewriteResult, enrich_transcripts, enrich_with_answer, generate_rewrites
from tests.llm.fault_server import answer_files, server_config, serving

PROMPTS = [load_rewrite_prompt(name) for name in packaged_rewrite_prompts()]
EN = load_rewrite_prompt("rewrite_en")


def answer(cues: str = "", emotions: tuple[str, ...] = (), clarity: str = "clear") -> dict[str, Any]:
    return {"cues": cues, "emotions": emotions, "clarity": clarity}


def form(**values: Any) -> str:
    return "content: " + json.dumps({"cues": "", "emotions": [], "clarity": "unclear"} | values)


def rewrite(folder: Path, contexts: dict[str, Context], config: LlmConfig) -> RewriteResult:
    return generate_rewrites(contexts, config=config, prompt=EN, answer_files=answer_files(folder))


def test_packaged_prompts_are_english_and_chinese() -> None:
    assert list(packaged_rewrite_prompts()) == ["rewrite_en", "rewrite_zh"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_examples_of_a_prompt_are_valid_and_quote_their_text(prompt: RewritePrompt) -> None:
    for example in prompt.examples:
        values = prompt.answer_schema().read(json.dumps(example.answer.model_dump(mode="json")))
        enriched = enrich_with_answer(Context(example.text, cues=example.cues), values, prompt)
        assert enriched.unquoted == 0
        assert enriched.unclear is (example.answer.clarity == "unclear")
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
def test_only_quoted_cues_are_used(values: dict[str, Any] | None, text: str, unquoted: int) -> None:
    context = Context("I miss her so much.", before=("The loss of her mother.",), cues=("brows lowered",))
    enriched = enrich_with_answer(context, values, EN)
    assert enriched.text.endswith(text)
    assert enriched.text.startswith('"I miss her so much."' if values else "I miss her so much.")
    assert enriched.unquoted == unquoted


@hypothesis.settings(deadline=None)
@given(st.text(), st.text(max_size=160), st.sampled_from(PROMPTS), st.sampled_from(["clear", "unclear"]))
def test_the_enriched_text_contains_the_transcript(text: str, cues: str, prompt: RewritePrompt, clarity: str) -> None:
    enriched = enrich_with_answer(Context(text), answer(cues, (prompt.emotions[0],), clarity), prompt)
    assert text.strip() in enriched.text


@hypothesis.settings(deadline=None)
@given(st.text())
def test_a_context_cannot_contain_tags(text: str) -> None:
    question = EN.messages(Context(text, before=(text,), after=(text,)))[-1]["content"]
    assert question.count("<") == question.count(">") == 6
    assert question.count("\n") == 2


def test_neighbours_and_cues_are_part_of_the_question(tmp_path: Path) -> None:
    alone = {"a": Context("Fine.")}
    more = {"a": Context("Fine.", before=("You forgot it.",), after=("Sorry!",), cues=("brows lowered",))}
    with serving(lambda *_: form()) as server:
        config = server_config(server.url)
        assert rewrite(tmp_path, alone, config).answered == 1
        assert rewrite(tmp_path, more, config).answered == 1
        assert rewrite(tmp_path, {**more, "b": more["a"]}, config).answered == 0
        questions = [body["messages"][-1]["content"] for body in server.requests]
    assert questions == [
        "<utterance>Fine.</utterance>",
        "<before>You forgot it.</before>\n<utterance>Fine.</utterance>\n<after>Sorry!</after>\n"
        "<face_and_voice>brows lowered</face_and_voice>",
    ]


def test_after_two_invalid_answers_the_text_is_the_transcript(tmp_path: Path) -> None:
    jubilant = form(emotions=["jubilant"], clarity="clear")
    happy = form(cues="what a day", emotions=["happy"], clarity="clear")
    with serving(lambda text, n: jubilant if text == "No." or n == 0 else happy) as server:
        result = rewrite(tmp_path, {"a": Context("Oh, what a day!"), "b": Context("No.")}, server_config(server.url))
        assert len(server.received) == 4
        again = rewrite(tmp_path, {"a": Context("Oh, what a day!"), "b": Context("No.")}, server_config(server.url))
        assert len(server.received) == 4
    assert result.texts == again.texts == {"a": '"Oh, what a day!" The speaker sounds happy (what a day).', "b": "No."}
    assert (result.invalid, result.unclear, result.answered, again.cached) == (1, 0, 2, 2)
    assert any("jubilant" in path.read_text() for path in (tmp_path / "cache").rglob("*.jsonl")), "raw answer stored"


@pytest.mark.parametrize(
    "change",
    [{"emotions": ["jubilant"]}, {"emotions": "happy"}, {"clarity": None}, {"more": 1}, {"cues": "so " * 100}],
)
def test_cached_answers_that_violate_the_schema_are_requested_again(tmp_path: Path, change: dict[str, Any]) -> None:
    contexts = {"a": Context("Oh, what a day!"), "b": Context("No.")}
    with serving(lambda *_: form(emotions=["happy"], clarity="clear")) as server:
        first = rewrite(tmp_path, contexts, server_config(server.url))
        (part,) = (tmp_path / "cache").rglob("*.jsonl")
        damaged, whole = map(json.loads, part.read_text().splitlines())
        values = {name: value for name, value in (damaged["values"] | change).items() if value is not None}
        content = "".join(json.dumps(row) + "\n" for row in (damaged | {"values": values}, whole))
        part.unlink()
        part.with_name(f"part-000000-{sha256_text(content)[:8]}.jsonl").write_text(content)  # as by an earlier version
        again = rewrite(tmp_path, contexts, server_config(server.url))
        assert len(server.received) == 3
        assert rewrite(tmp_path, contexts, server_config(server.url)).answered == 0
    assert again.texts == first.texts
    assert (again.answered, again.cached, again.invalid) == (1, 1, 0)


def test_long_transcripts_are_truncated_only_in_the_question(tmp_path: Path) -> None:
    long = "word " * 300 + "end"
    with serving(lambda *_: form()) as server:
        result = rewrite(tmp_path, {"a": Context(long)}, server_config(server.url))
        assert len(server.requests[0]["messages"][-1]["content"]) < 600
    assert long in result.texts["a"]
    assert result.truncated == 1


def test_rewrites_of_a_local_model_are_cached(tiny: LlmConfig, tmp_path: Path) -> None:
    prompt = EN.model_copy(update={"instruction": "Emotions: {emotions}", "examples": ()})
    config = tiny.model_copy(update={"workers": 0})
    contexts = {"a": Context("I miss her."), "b": Context("Go away!")}
    result = generate_rewrites(contexts, config=config, prompt=prompt, answer_files=answer_files(tmp_path))
    assert (result.answered, result.invalid, result.quarantined) == (2, 0, 0)
    assert all(context.text in result.texts[clip] for clip, context in contexts.items())
    again = generate_rewrites(contexts, config=config, prompt=prompt, answer_files=answer_files(tmp_path))
    assert (again.texts, again.answered) == (result.texts, 0)


def test_cues_are_appended_to_a_scored_rewrite(tiny: LlmConfig, tmp_path: Path) -> None:
    contexts = {"a": Context("I miss her.", cues=("brows lowered", "voice louder than usual")), "b": Context("Hm.")}
    config = tiny.model_copy(update={"workers": 0})
    result = enrich_transcripts(
        config, RewriteConfig(), contexts, ("happy", "sad"), answer_files=answer_files(tmp_path)
    )
    assert result.texts["a"].endswith(". Face and voice: brows lowered, voice louder than usual.")
    assert "Face and voice" not in result.texts["b"]


def test_a_prompt_file_of_the_user(tmp_path: Path) -> None:
    document = yaml.safe_load(packaged_rewrite_prompts()["rewrite_en"].read_text(encoding="utf-8"))
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(document | {"version": 7}))
    prompt = load_rewrite_prompt(str(own))
    assert prompt.settings() != EN.settings()
    assert EN.model_copy(update={"cue_words": {}}).settings() == EN.settings(), "they are part of the questions"
    for change in (
        {"instruction": "no places"},
        {"emotions": ["sad"]},
        {"cue_words": {}},
        {"marks": document["marks"] | {"before": "{words}"}},
        {"emotions": ["happy", "glad"]},  # the examples name others
        {"more": 1},
    ):
        own.write_text(yaml.safe_dump(document | change))
        with pytest.raises(ParamsError) as caught:
            load_rewrite_prompt(str(own))
        assert isinstance(caught.value.__cause__, ValidationError)
        assert str(own) in caught.value.message
    for name in ("rewrite_fr", str(tmp_path / "none.yaml")):
        with pytest.raises(ParamsError) as caught:
            load_rewrite_prompt(name)
        assert caught.value.keys == ("rewrite.prompt",)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neighbours": 2}, "rewrite.how"),
        ({"dialogues": "("}, "regular expression"),
        ({"dialogues": r"(?P<dialogue>.+)_\d+"}, "groups"),
        ({"how": "unknown"}, "scored"),
    ],
)
def test_invalid_settings_raise_value_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewriteConfig.model_validate(settings)
