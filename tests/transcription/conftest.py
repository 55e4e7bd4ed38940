"""A tiny Whisper with random weights and its own tokenizer, saved in the format of published models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|translate|>", "<|transcribe|>"),
    *("<|nospeech|>", "<|notimestamps|>"),
)


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("tiny-whisper")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["so what did she give to him", "then he wrote it again"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL_TOKENS[0]})
    )
    sizes = {"layers": 2, "attention_heads": 2, "ffn_dim": 48}
    layers = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in sizes.items()}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.WhisperConfig(
            **layers,
            vocab_size=tokenizer.get_vocab_size(),
            d_model=32,
            num_mel_bins=16,
            max_source_positions=100,
            max_target_positions=16,
            init_std=0.4,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=1,
        )
        transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2).save_pretrained(folder)
    return folder
