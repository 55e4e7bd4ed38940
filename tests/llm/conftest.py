"""The tiny language model's params; `scripted` is importable, here and in the workers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ecmf_pipeline.llm.config import LlmConfig

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def tiny(tiny_model: Path) -> LlmConfig:
    return LlmConfig(model=str(tiny_model), gguf_file=None, device="cpu", batch_size=4)
