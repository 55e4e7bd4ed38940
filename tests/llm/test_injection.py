"""A transcript is data: no transcript can change the prompt around it."""

from __future__ import annotations

import pytest

from ecmf_pipeline.llm.prompt import as_data, load_prompt
from tools.llm_trust.injected import CHINESE, ENGLISH

SIX = ["neutral", "angry", "happy", "sad", "worried", "surprise"]


def test_there_are_at_least_thirty_injections() -> None:
    assert len({*ENGLISH, *CHINESE}) >= 30


@pytest.mark.parametrize("name", ["emotion_en", "emotion_zh"])
@pytest.mark.parametrize("text", [*ENGLISH, *CHINESE])
def test_an_injection_does_not_change_the_prompt(name: str, text: str) -> None:
    prompt = load_prompt(name)
    turns, plain = prompt.chat_messages(text, SIX), prompt.chat_messages("x", SIX)
    assert turns[:-1] == plain[:-1]
    last_turn = turns[-1]["content"]
    assert last_turn.startswith("<utterance>")
    assert last_turn.endswith("</utterance>")
    assert last_turn.count("<") == last_turn.count(">") == 2, "the text contains no tag"
    assert "\n" not in last_turn
    data = as_data(text)
    assert not set('"“”「」『』\n') & set(data)
    assert prompt.render(data, SIX) == prompt.render("MARK", SIX).replace("MARK", data)
