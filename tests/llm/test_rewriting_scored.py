from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecmf_pipeline.llm.config import RewriteConfig
from ecmf_pipeline.llm.prompt import Prompt, load_prompt, packaged_prompts
from ecmf_pipeline.llm.rewriting import enrich

SIX = ("neutral", "angry", "happy", "sad", "worried", "surprise")
CONFIG = RewriteConfig(clear=0.5, likely=0.3, second=0.2, margin=0.05)


@pytest.mark.parametrize(
    ("probs", "cue"),
    [
        ((0.01, 0.01, 0.01, 0.94, 0.02, 0.01), "The speaker sounds sad."),
        ((0.05, 0.05, 0.05, 0.55, 0.25, 0.05), "The speaker sounds sad, perhaps worried."),
        ((0.12, 0.12, 0.12, 0.15, 0.15, 0.34), "The speaker may be surprised."),
        ((0.05, 0.4, 0.05, 0.1, 0.3, 0.1), "The speaker may be angry, perhaps worried."),
        ((0.02, 0.46, 0.03, 0.02, 0.44, 0.03), "The words alone leave the emotion unclear."),  # too close
        ((0.17, 0.17, 0.17, 0.17, 0.16, 0.16), "The words alone leave the emotion unclear."),  # flat
        ((np.nan,) * 6, "The words alone leave the emotion unclear."),
    ],
)
def test_the_cue_sentence_depends_on_the_probabilities(probs: tuple[float, ...], cue: str) -> None:
    text = enrich("I miss my mother.", np.array(probs), SIX, prompt=load_prompt("emotion_en"), config=CONFIG)
    assert text == f'"I miss my mother." {cue}'


def test_a_chinese_prompt_has_chinese_cue_sentences() -> None:
    probs = np.array([0.05, 0.05, 0.05, 0.55, 0.25, 0.05])
    text = enrich("我很想妈妈。", probs, SIX, prompt=load_prompt("emotion_zh"), config=CONFIG)
    assert text == "“我很想妈妈。”说话人听起来很难过\uff0c也许有些担心。"


def test_an_unknown_label_is_its_own_adjective() -> None:
    text = enrich("Hm.", np.array([0.1, 0.9]), ("joy", "deep_thought"), prompt=load_prompt("emotion_en"), config=CONFIG)
    assert text == '"Hm." The speaker sounds deep thought.'


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u3000"])
def test_a_blank_transcript_is_not_enriched(blank: str) -> None:
    assert enrich(blank, np.full(6, np.nan), SIX, prompt=load_prompt("emotion_en"), config=CONFIG) == ""


PROMPTS = [load_prompt(name) for name in packaged_prompts()]


@given(
    st.text(),
    st.lists(st.floats(min_value=0.001, max_value=1), min_size=6, max_size=6),
    st.sampled_from(PROMPTS),
)
def test_the_enriched_text_contains_the_transcript(transcript: str, weights: list[float], prompt: Prompt) -> None:
    probs = np.array(weights) / sum(weights)
    text = enrich(transcript, probs, SIX, prompt=prompt, config=CONFIG)
    assert transcript.strip() in text
    assert bool(text) == bool(transcript.strip())
    assert text == enrich(transcript, probs, SIX, prompt=prompt, config=CONFIG)
