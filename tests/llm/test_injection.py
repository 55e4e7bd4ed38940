"""A transcript is data: whatever it says, the prompt around it stays what it is."""

from __future__ import annotations

import pytest

from ecmf_pipeline.llm.prompt import as_data, load_prompt
from tools.llm_trust.injected import CHINESE, ENGLISH

SIX = ["neutral", "angry", "happy", "sad", "worried", "surprise"]


def test_there_are_enough_of_them() -> None:
    assert len({*ENGLISH, *CHINESE}) >= 30


@pytest.mark.parametrize("name", ["emotion_en", "emotion_zh"])
@pytest.mark.parametrize("text", [*ENGLISH, *CHINESE])
def test_the_prompt_around_it_stays_what_it_is(name: str, text: str) -> None:
    prompt = load_prompt(name)
    turns, plain = prompt.chat_messages(text, SIX), prompt.chat_messages("x", SIX)
    assert turns[:-1] == plain[:-1]
    said = turns[-1]["content"]
    assert said.startswith("<utterance>")
    assert said.endswith("</utterance>")
    assert said.count("<") == said.count(">") == 2, "it cannot end the marks around it"
    assert "\n" not in said
    shown = as_data(text)
    assert not set('"“”「」『』\n') & set(shown)
    assert prompt.render(shown, SIX) == prompt.render("MARK", SIX).replace("MARK", shown)
