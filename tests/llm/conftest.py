"""Fixtures of the tests of language models."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecmf_pipeline.llm.config import LlmConfig


@pytest.fixture
def tiny(tiny_model: Path) -> LlmConfig:
    """Return the settings of the tiny language model."""
    return LlmConfig(model=str(tiny_model), gguf_file=None, device="cpu", batch_size=4)
