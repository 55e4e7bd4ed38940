"""A tiny random Llama with a tokenizer of its own, made once; `scripted` is importable, here and in the workers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import load_prompt

sys.path.insert(0, str(Path(__file__).parent))

SIX = ("neutral", "angry", "happy", "sad", "worried", "surprise")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder: byte-level BPE trained on the English prompt, two random layers, a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([load_prompt("emotion_en").render("", SIX)] * 2, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|end|>"}
    template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]\n{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]\n{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=tokenizer.get_vocab_size(),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                bos_token_id=0,
                eos_token_id=1,
                initializer_range=0.3,
            )
        )
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tiny_model: Path) -> LlmConfig:
    return LlmConfig(model=str(tiny_model), gguf_file=None, device="cpu", batch_size=4)
