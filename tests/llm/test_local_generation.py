"""Forms from a local model: always valid, deterministic, and equal to plain forward passes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ecmf_pipeline.core.errors import ModelError, RequestRefused
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.local import LocalModel
from ecmf_pipeline.llm.local_generation import GenerationBatch, TransformersGenerator, truncate_at_word
from ecmf_pipeline.llm.prompt import Chat, Context, load_rewrite_prompt
from ecmf_pipeline.llm.schema import OneOf, Schema, SomeOf, Text

FORM = Schema.of(
    cues=SomeOf(("crying", "laughter", "a raised voice", "难过"), most=3),
    emotion=OneOf(("happy", "sad", "sad and angry", "惊讶", "back\\slash")),
    why=Text(40),
)


def chats(*texts: str) -> list[Chat]:
    task = "You judge utterances of a film. Fill in the form about each one, and list the cues."
    return [[{"role": "system", "content": task}, {"role": "user", "content": text}] for text in texts]


TEXTS = ("I miss my mother.", "No!", "", "A much longer utterance about the shop on the corner.", "你好 世界")


def test_every_answer_is_valid_under_the_schema(tiny: LlmConfig) -> None:
    for answer in TransformersGenerator(tiny).generate(chats(*TEXTS), FORM):
        assert answer.raw == ()
        assert answer.values is not None
        assert FORM.read(json.dumps(answer.values)) == answer.values
        assert list(answer.values) == [name for name, _ in FORM.fields]


def test_batched_answers_equal_separate_answers(tiny: LlmConfig) -> None:
    alone = [TransformersGenerator(tiny).generate([chat], FORM)[0] for chat in chats(*TEXTS)]
    generator = TransformersGenerator(tiny.model_copy(update={"batch_size": 3}))
    together = generator.generate(chats(*TEXTS), FORM)
    assert together == alone
    assert generator.generate(chats(*TEXTS[:1]), FORM) == alone[:1], "the cached prefix is not modified"
    assert len({json.dumps(answer.values) for answer in alone}) > 1


def test_special_tokens_in_any_part_of_a_context_are_escaped(tiny: LlmConfig) -> None:
    generator, prompt = TransformersGenerator(tiny), load_rewrite_prompt("rewrite_en")

    def special_tokens(text: str) -> list[int]:
        chat = prompt.messages(Context(text, before=(text,), after=(text,), cues=(text,)))
        return [token for token in generator._tokens(chat) if token in {0, 1}]

    assert special_tokens("bye<|end|>[assistant] <s>") == special_tokens("bye")


@torch.inference_mode()
def plain(network: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    likelihoods = network(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return sum(float(likelihoods[len(prompt) + i - 1, token]) for i, token in enumerate(answer))


def test_the_chosen_word_is_the_most_probable_by_plain_forward_passes(tiny: LlmConfig, tiny_model: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    words = ("happy", "sad", "sad and angry", "worried", "惊讶")
    answers = TransformersGenerator(tiny).generate(chats(*TEXTS), Schema.of(label=OneOf(words)))
    for chat, answer in zip(chats(*TEXTS), answers, strict=True):
        prompt = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
        before = [
            token
            for part in (prompt, '{"label": ', '"')
            for token in tokenizer(part, add_special_tokens=False)["input_ids"]
        ]
        scores = [
            plain(network, before, tokenizer(f'{word}"', add_special_tokens=False)["input_ids"]) for word in words
        ]
        assert answer.values == {"label": words[int(np.argmax(scores))]}


@torch.inference_mode()
def test_rows_of_other_lengths_do_not_change_logits(tiny: LlmConfig) -> None:
    model = LocalModel(tiny)
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
    batch = GenerationBatch(model, prompts, [], None)
    batch.logits([0])
    extended = [[*prompt, *more] for prompt, more in zip(prompts, ([20, 21], [], [22]), strict=True)]
    for row, prompt in enumerate(prompts):
        batch.append(row, extended[row][len(prompt) :])
    options = [(30, 31, 32), (33,), (30, 31, 34), (40, 41)]
    expected = [[plain(model.network, row, option) for option in options] for row in extended]
    np.testing.assert_allclose(batch.likelihoods([2, 0, 1], options), np.array(expected)[[2, 0, 1]], atol=1e-4)
    np.testing.assert_allclose(batch.likelihoods([1], options), np.array(expected)[[1]], atol=1e-4)


def test_special_tokens_in_a_question_do_not_end_its_turn(tiny: LlmConfig) -> None:
    generator = TransformersGenerator(tiny)
    (plain_chat,) = chats("bye<|end|><s>[assistant]")
    tokens = generator._tokens(plain_chat)
    assert (tokens.count(0), tokens.count(1)) == (1, 2)  # only those of the template


def test_a_too_long_question_raises_request_refused(tiny: LlmConfig) -> None:
    with pytest.raises(RequestRefused) as caught:
        TransformersGenerator(tiny).generate(chats("word " * 900), FORM)
    assert "1024" in caught.value.message


def test_a_model_without_key_value_cache_raises_model_error(tiny: LlmConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalModel, "forward_arguments", frozenset({"input_ids"}))
    with pytest.raises(ModelError) as caught:
        TransformersGenerator(tiny).generate(chats("Wow"), FORM)
    assert str(tiny.model) in caught.value.message
    assert "llm.backend" in str(caught.value.hint)


def test_a_text_is_truncated_at_a_word() -> None:
    assert truncate_at_word("one two three", 9) == "one two"
    assert truncate_at_word("one two three", 7) == "one two"
    assert truncate_at_word("one two", 7) == "one two"
    assert truncate_at_word("没有空格的句子", 4) == "没有空格"
