"""Compare utterance features of HuBERT and BERT with the scripts a user would write without this package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import pool_segments
from ecmf_pipeline.core.clips import ClipText
from ecmf_pipeline.encoders.base import Encoding
from ecmf_pipeline.encoders.config import AudioConfig, TextConfig
from ecmf_pipeline.encoders.registry import build_encoder

TOLERANCE = 1e-4


def utterance_features(encodings: list[Encoding]) -> NDArray[np.float32]:
    """Return one vector for each clip, (n, D), pooled as a store pools features on reading."""
    lengths = np.array([len(encoding.values) for encoding in encodings])
    return pool_segments(np.concatenate([encoding.values for encoding in encodings]), lengths, "mean")


@pytest.mark.parametrize("name", ["hubert", "hubert_large"])
def test_hubert_features_equal_the_reference_script(
    tiny_models: Path, sounds: list[NDArray[np.float32]], name: str
) -> None:
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(tiny_models / name)
    model = transformers.HubertModel.from_pretrained(tiny_models / name).eval()
    expected = []
    for sound in sounds:
        inputs = extractor(sound, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            hidden_states = model(inputs.input_values, output_hidden_states=True).hidden_states
        expected.append(torch.stack(hidden_states)[[-4, -3, -2, -1]].sum(dim=0)[0].mean(dim=0).numpy())
    encoder = build_encoder(AudioConfig(model=str(tiny_models / name), layers="last4_sum"), "cpu")
    assert np.abs(utterance_features(encoder.encode(sounds)) - np.stack(expected)).max() < TOLERANCE


def test_bert_features_equal_the_reference_script(tiny_models: Path) -> None:
    texts = ["i miss my mother", "what a nice surprise today", "sad", "i am so very angry"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models / "bert")
    model = transformers.BertModel.from_pretrained(tiny_models / "bert").eval()
    expected = []
    for text in texts:
        with torch.no_grad():
            hidden_states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        states = torch.stack(hidden_states)[[-4, -3, -2, -1]].sum(dim=0)[0]
        expected.append(states[1:-1].mean(dim=0).numpy())  # without [CLS] and [SEP]
    config = TextConfig(model=str(tiny_models / "bert"), layers="last4_sum", token_pool="mean", special_tokens=False)
    features = utterance_features(build_encoder(config, "cpu").encode([ClipText(text) for text in texts]))
    assert np.abs(features - np.stack(expected)).max() < TOLERANCE
