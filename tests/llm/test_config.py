"""Settings of the language model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import ModelError, ParamsError
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.core.shards import Shard
from ecmf_pipeline.llm.config import BudgetConfig, LlmConfig

SIX = ["neutral", "angry", "happy", "sad", "worried", "surprise"]


def test_settings_contain_only_what_changes_scores(tiny: LlmConfig) -> None:
    base = fingerprint(tiny.settings(SIX))
    runs: list[dict[str, object]] = [
        {"batch_size": 99},
        {"device": "cuda"},
        {"workers": 0},
        {"workers": None},
        {"clip_timeout": 1.0},
        {"max_quarantined": 1.0},
    ]
    for update in runs:
        assert fingerprint(tiny.model_copy(update=update).settings(SIX)) == base
    others: list[dict[str, object]] = [
        {"prompt": "emotion_zh"},
        {"calibration": "none"},
        {"max_tokens": 5},
        {"dtype": "bfloat16"},
        {"chat_template": True},
    ]
    fingerprints = {fingerprint(tiny.model_copy(update=other).settings(SIX)) for other in others}
    fingerprints |= {base, fingerprint(tiny.settings(SIX[::-1])), fingerprint(tiny.settings(SIX[:3]))}
    assert len(fingerprints) == len(others) + 3


def test_settings_depend_on_the_weights_and_not_on_their_folder(tmp_path: Path) -> None:
    settings = []
    for folder, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.gguf").write_bytes(content)
        settings.append(LlmConfig(model=str(tmp_path / folder), gguf_file="model.gguf").settings(SIX))
    assert settings[0] == settings[1] != settings[2]


def test_a_hub_id_needs_no_files() -> None:
    config = LlmConfig(model="someone/some-llm", gguf_file=None, revision="abc")
    assert config.weights() == {"hub": "someone/some-llm", "revision": "abc", "gguf_file": ""}


@pytest.mark.parametrize("model", ["data/models/nowhere", "/nowhere", "../x", "."])
def test_a_missing_model_raises_model_error(model: str) -> None:
    with pytest.raises(ModelError) as caught:
        LlmConfig(model=model).settings(SIX)
    assert str(Path(model)) in caught.value.message
    assert caught.value.command == "ecmf-pipe models"


def test_an_unknown_prompt_raises_params_error(tiny: LlmConfig) -> None:
    with pytest.raises(ParamsError) as caught:
        tiny.model_copy(update={"prompt": "emotion_fr"}).settings(SIX)
    assert "llm.prompt" in caught.value.keys
    assert "emotion_fr" in caught.value.message


def test_the_config_imports_neither_torch_nor_numpy() -> None:
    code = "import ecmf_pipeline.llm.config, sys; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("limit", "shares"), [(None, [None] * 4), (0, [0, 0, 0, 0]), (2, [1, 1, 0, 0]), (11, [3, 3, 3, 2])]
)
def test_the_budgets_of_all_shards_add_up_to_that_of_a_run(limit: int | None, shares: list[int | None]) -> None:
    budget = BudgetConfig(max_requests=limit, max_tokens=limit)
    found = [budget.of_shard(Shard(number, 4)) for number in (1, 2, 3, 4)]
    assert [share.max_requests for share in found] == [share.max_tokens for share in found] == shares
