"""The encoders of the presets, with tiny models of the same architectures instead of those on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.clips import ClipText, Modality
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.settings.params import Params, validated

TINY_MODELS = {
    "clip_large": "clip_two_towers",
    "expression_vit": "vit",
    "dinov2_large": "dinov2",
    "hubert_large": "hubert",
    "roberta_large": "bert",
}
"""Tiny model with the architecture of each encoder of the presets."""


@pytest.fixture
def views(frames: list[Any], tracks: list[Any], sounds: list[Any]) -> dict[Modality, list[Any]]:
    texts = [ClipText("i am so very happy today", "what a nice surprise"), ClipText("sad", "i am sad")]
    return {Modality.GLOBAL: frames, Modality.FACE: tracks, Modality.AUDIO: sounds, Modality.TEXT: texts}


def params_with_tiny_models(preset: str, tiny_models: Path) -> Params:
    document = {"preset": preset, "corpus": {"kind": "mer", "root": "x"}}
    encoders = validated(document, where="params.yaml").encoders
    models = {name: {"model": str(tiny_models / TINY_MODELS[name])} for name in encoders if name in TINY_MODELS}
    return validated({**document, "encoders": models}, where="params.yaml")


@pytest.mark.parametrize("preset", ["ecmf", "mer-baseline"])
def test_all_encoders_of_a_preset_encode_clips(preset, tiny_models, views):
    params = params_with_tiny_models(preset, tiny_models)
    for modality in params.extract.encoders:
        config = params.encoder_of(modality)
        encoder = build_encoder(config, "cpu")
        try:
            for encoding in encoder.encode(views[modality]):
                assert len(encoding.values) > 0
                assert np.isfinite(encoding.values).all()
                assert encoding.values.shape[1] == encoder.dim == config.known_dim()
        finally:
            encoder.close()


@pytest.mark.parametrize("preset", ["ecmf", "mer-baseline"])
def test_prompt_of_a_preset_matches_the_language_of_its_transcripts(preset):
    params = validated({"preset": preset, "corpus": {"kind": "mer", "root": "x"}}, where="params.yaml")
    assert params.corpus.transcripts == "chinese"
    assert params.llm.prompt == "emotion_zh"


def test_settings_of_the_ecmf_preset(tiny_models):
    params = params_with_tiny_models("ecmf", tiny_models)
    assert params.extract.encoders[Modality.FACE] == ("expression_vit", "dinov2_large")
    assert {encoder.precision for encoder in params.encoders.values()} == {"bf16"}
    assert params.llm.gguf_file is None
