"""A tiny chat model trained in a second or two to answer about a few utterances."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from ecmf_pipeline.llm.prompt import Message, Prompt

_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def _rendered(chat: Sequence[Message]) -> str:
    return "".join(f"[{turn['role']}]{turn['content']}<|end|>" for turn in chat) + "[assistant]"


def train(folder: Path, prompt: Prompt, answers: Mapping[str, str], labels: Sequence[str], *, steps: int = 120) -> None:
    """Train and save a model that gives these answers about these utterances, with tokenizer and chat template."""
    prompts = [_rendered(prompt.chat_messages(text, labels)) for text in answers]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<s>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([prompts[0], *answers.values()] * 2, trainer)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": _TEMPLATE}))
    network = _network(tokenizer.get_vocab_size())
    questions = [tokenizer.encode(text).ids for text in prompts]
    answer_tokens = [tokenizer.encode(f"{answer}<|end|>").ids for answer in answers.values()]
    _train(network, questions, answer_tokens, steps)
    network.save_pretrained(folder)


def _network(vocab_size: int) -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=1024,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )


def _train(
    network: LlamaForCausalLM, questions: Sequence[Sequence[int]], answer_tokens: Sequence[Sequence[int]], steps: int
) -> None:
    """Train on the answers only; rows are padded on the right."""
    rows = [[*question, *answer] for question, answer in zip(questions, answer_tokens, strict=True)]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [1] * (width - len(row)) for row in rows])  # (B, L)
    targets = torch.full_like(tokens, -100)
    for number, (question, row) in enumerate(zip(questions, rows, strict=True)):
        targets[number, len(question) : len(row)] = torch.tensor(row[len(question) :])
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        network(tokens, labels=targets).loss.backward()
        optimizer.step()
    network.eval()
