"""Weights that exist only as pickles are loaded only if they hold nothing but tensors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.config import TextConfig
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.local import LocalModel


class Attack:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def pickled(source: Path, folder: Path, **more: object) -> Path:
    """Copy a model; its weights become a pickle that also holds ``more``."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({**load_file(source / "model.safetensors"), **more}, folder / "pytorch_model.bin")
    return folder


def test_a_pickle_of_tensors_is_loaded(tiny_models: Path, tmp_path: Path) -> None:
    folder = pickled(tiny_models / "bert", tmp_path / "model")
    encoder = build_encoder(TextConfig(model=str(folder)), "cpu")
    assert encoder.dim == build_encoder(TextConfig(model=str(tiny_models / "bert")), "cpu").dim


def test_a_pickle_with_code_is_refused_and_not_run(tiny_models: Path, tiny_model: Path, tmp_path: Path) -> None:
    attack = Attack(tmp_path / "created")
    folder = pickled(tiny_models / "bert", tmp_path / "model", attack=attack)
    with pytest.raises(ModelError) as caught:
        build_encoder(TextConfig(model=str(folder)), "cpu")
    assert str(folder) in caught.value.message
    folder = pickled(tiny_model, tmp_path / "llm", attack=attack)
    config = LlmConfig(model=str(folder), gguf_file=None, device="cpu")
    with pytest.raises(ModelError) as caught:
        _ = LocalModel(config).network
    assert str(folder) in caught.value.message
    assert not attack.path.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"num_attention_heads": ', '"num_attention_heads": 7'),
        ('"hidden_size": ', '"hidden_size": "x", "old": '),
    ],
)
def test_a_config_with_invalid_values_is_an_error_with_the_model(
    tiny_models: Path, tmp_path: Path, old: str, new: str
) -> None:
    folder = shutil.copytree(tiny_models / "bert", tmp_path / "model")
    config = folder / "config.json"
    config.write_text(config.read_text().replace(old, new, 1))
    with pytest.raises(ModelError) as caught:
        build_encoder(TextConfig(model=str(folder)), "cpu")
    assert str(folder) in caught.value.message
