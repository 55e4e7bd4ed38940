"""The presets' encoders, with small models of the same kinds in place of those on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.clips import ClipText, Modality
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.settings.params import Params, validated

KINDS = {
    "clip_large": "clip_two_towers",
    "expression_vit": "vit",
    "dinov2_large": "dinov2",
    "hubert_large": "hubert",
    "roberta_large": "bert",
}
"""The tiny model of the kind of each of the presets' own."""


@pytest.fixture
def views(frames: list[Any], tracks: list[Any], sounds: list[Any]) -> dict[Modality, list[Any]]:
    texts = [ClipText("i am so very happy today", "what a nice surprise"), ClipText("sad", "i am sad")]
    return {Modality.GLOBAL: frames, Modality.FACE: tracks, Modality.AUDIO: sounds, Modality.TEXT: texts}


def with_small_models(preset: str, tiny: Path) -> Params:
    document = {"preset": preset, "corpus": {"kind": "mer", "root": "x"}}
    named = validated(document, where="params.yaml").encoders
    models = {name: {"model": str(tiny / KINDS[name])} for name in named if name in KINDS}
    return validated({**document, "encoders": models}, where="params.yaml")


@pytest.mark.parametrize("preset", ["ecmf", "mer-baseline"])
def test_every_encoder_of_a_preset_describes_clips(preset, tiny, views):
    params = with_small_models(preset, tiny)
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
def test_a_preset_asks_the_llm_in_the_language_of_its_transcripts(preset):
    params = validated({"preset": preset, "corpus": {"kind": "mer", "root": "x"}}, where="params.yaml")
    assert params.corpus.transcripts == "chinese"
    assert params.llm.prompt == "emotion_zh"


def test_ecmf_is_what_it_says(tiny):
    params = with_small_models("ecmf", tiny)
    assert params.extract.encoders[Modality.FACE] == ("expression_vit", "dinov2_large")
    assert {encoder.precision for encoder in params.encoders.values()} == {"bf16"}
    assert params.llm.gguf_file is None
