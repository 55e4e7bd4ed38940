from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.errors import ModelError, ParamsError
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.encoders.base_config import folder_hashes, hub_cache, locate_model, pick_device
from ecmf_pipeline.encoders.config import (
    AudioConfig,
    EfficientNetConfig,
    EncoderConfig,
    ImportedConfig,
    TextConfig,
    VisionConfig,
    text_columns,
)
from ecmf_pipeline.encoders.registry import build_encoder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fill_cache(cache: Path, model: str, revision: str) -> None:
    reference = cache / f"models--{model.replace('/', '--')}" / "refs" / revision
    reference.parent.mkdir(parents=True)
    reference.write_text(COMMIT)


class TestParams:
    def test_type_selects_the_config_class(self) -> None:
        validate = TypeAdapter(EncoderConfig).validate_python
        assert isinstance(validate({"type": "efficientnet_lite0"}), EfficientNetConfig)
        vision = validate({"type": "transformers_vision", "model": "org/name"})
        assert vision.modalities == {Modality.GLOBAL, Modality.FACE}

    @pytest.mark.parametrize(
        "entry",
        [
            {"type": "resnet"},
            {"batch_size": 3},
            {"type": "egemaps", "bins": 3},
            {"type": "egemaps", "batch_size": 0},
            {"type": "transformers_vision"},
            {"type": "transformers_text", "layers": "first"},
            {"type": "transformers_text", "inputs": []},
            {"type": "transformers_text", "inputs": ["original", "original"]},
            {"type": "transformers_text", "inputs": ["both"]},
        ],
    )
    def test_invalid_entry_is_rejected(self, entry: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            TypeAdapter(EncoderConfig).validate_python(entry)

    def test_settings_import_no_heavy_library(self, models: Path) -> None:
        code = (
            "import sys; from ecmf_pipeline.encoders.config import TextConfig;"
            f"TextConfig(model={str(models / 'minilm')!r}).settings();"
            "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers', 'huggingface_hub')))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestSettings:
    def test_fields_that_change_numbers_change_the_fingerprint(self, tiny_models: Path) -> None:
        config = TextConfig(model=str(tiny_models / "bert"))
        changed: list[dict[str, Any]] = [
            {"inputs": "both"},
            {"inputs": ("original", "translation")},
            {"inputs": ("translation", "original")},
            {"max_tokens": 9},
            {"layers": "last4_sum"},
            {"model": str(tiny_models / "llama")},
        ]
        prints = {fingerprint(config.model_copy(update=update).settings()) for update in [{}, *changed]}
        assert len(prints) == 1 + len(changed)

    def test_inputs_list_equals_its_keyword(self) -> None:
        validate = TypeAdapter(EncoderConfig).validate_python
        for inputs, keyword in ((["original", "enriched"], "both"), (["translation"], "translation")):
            assert validate({"type": "transformers_text", "inputs": inputs}) == TextConfig(inputs=keyword)
        assert TextConfig(inputs=["enriched", "original"]).text_columns == ("enriched", "original")

    def test_text_columns_are_read_from_settings(self, tiny_models: Path) -> None:
        for inputs in ("original", "translation", "both", ("translation", "enriched")):
            config = TextConfig(model=str(tiny_models / "bert"), inputs=inputs)
            stored = json.loads(json.dumps({"modality": "text", "encoder": config.settings()}))
            assert text_columns(stored) == config.text_columns
        assert text_columns({"modality": "text"}) == ("original",)

    def test_batch_size_is_not_in_settings(self, tiny_models: Path) -> None:
        config = TextConfig(model=str(tiny_models / "bert"))
        assert config.model_copy(update={"batch_size": 1}).settings() == config.settings()

    def test_folder_hashes_ignore_files_that_change_no_numbers(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        before = folder_hashes(tmp_path)
        (tmp_path / "README.md").write_text("words")
        (tmp_path / ".cache").mkdir()
        (tmp_path / ".cache" / "state.json").write_text("{}")
        assert folder_hashes(tmp_path) == before
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text("{}")
        assert folder_hashes(tmp_path).keys() == {"config.json", "1_Pooling/config.json"}


class TestModelSource:
    @pytest.mark.parametrize("model", ["data/models/absent", "/nowhere", "./absent"])
    def test_missing_folder_raises_model_error_with_command(self, model: str) -> None:
        with pytest.raises(ModelError) as caught:
            locate_model(model, "main")
        assert str(Path(model)) in caught.value.message
        assert caught.value.command == "ecmf-pipe models"

    def test_folder_without_config_raises_model_error(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError) as caught:
            locate_model(str(tmp_path), "main")
        assert str(tmp_path) in caught.value.message
        assert "config.json" in caught.value.message

    def test_hub_model_is_identified_by_the_cached_commit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_requests: Callable[[], list[Any]]
    ) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        fill_cache(tmp_path, "org/name", "main")
        config = VisionConfig(model="org/name")
        assert config.settings()["weights"] == {"model": "org/name", "commit": COMMIT}
        assert config.model_copy(update={"revision": COMMIT}).settings() == config.settings()
        assert hub_requests() == []

    def test_unknown_hub_id_raises_model_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_requests: Callable[[], list[Any]]
    ) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ModelError) as caught:
            VisionConfig(model="org/name", revision="v2").settings()
        assert "'org/name'" in caught.value.message
        assert "LocalEntryNotFoundError" in caught.value.message
        assert hub_requests()[0][1]["revision"] == "v2"

    def test_hub_model_is_loaded_at_the_commit_in_its_settings(
        self, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        fill_cache(tmp_path, "org/name", "main")
        snapshots = tmp_path / "models--org--name" / "snapshots"
        snapshots.mkdir()
        (snapshots / COMMIT).symlink_to(tiny_models / "vit", target_is_directory=True)
        encoder = build_encoder(VisionConfig(model="org/name"), "cpu")
        assert encoder.dim == 32
        assert encoder.settings["weights"]["commit"] == COMMIT

    def test_hub_cache_follows_the_environment_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        assert hub_cache() == Path.home() / ".cache" / "huggingface" / "hub"
        monkeypatch.setenv("XDG_CACHE_HOME", "/x")
        assert hub_cache() == Path("/x/huggingface/hub")
        monkeypatch.setenv("HF_HOME", "/h")
        assert hub_cache() == Path("/h/hub")
        monkeypatch.setenv("HF_HUB_CACHE", "/c")
        assert hub_cache() == Path("/c")


class TestDevice:
    def test_auto_returns_an_available_device(self) -> None:
        assert pick_device("auto").type in {"cpu", "cuda"}

    @pytest.mark.parametrize("device", ["cuda:99", "warp"])
    def test_absent_device_raises_params_error(self, device: str) -> None:
        with pytest.raises(ParamsError) as caught:
            pick_device(device)
        assert device in caught.value.message
        assert caught.value.hint is not None


def save_config(folder: Path, **shape: object) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape))
    return str(folder)


class TestKnownDim:
    def test_known_dim_is_read_from_a_folder_and_the_hub_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        folder = save_config(tmp_path / "clip", vision_config={"hidden_size": 24}, projection_dim=16)
        assert VisionConfig(model=folder).known_dim() == 24
        assert VisionConfig(model=folder, token_pool="projection").known_dim() == 16
        assert AudioConfig(model="far/away").known_dim() is None
        cache = tmp_path / "hub" / "models--far--away"
        save_config(cache / "snapshots" / COMMIT, hidden_size=7)
        assert AudioConfig(model="far/away").known_dim() is None
        assert AudioConfig(model="far/away", revision=COMMIT).known_dim() == 7
        fill_cache(tmp_path / "hub", "far/away", "main")
        assert AudioConfig(model="far/away").known_dim() == 7
        text = TextConfig(model=save_config(tmp_path / "bert", hidden_size=5), inputs="both")
        assert text.known_dim() == 10

    def test_dim_of_an_absent_model_is_unknown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        assert VisionConfig(model="far/away").known_dim() is None
        assert ImportedConfig(name="x").known_dim() is None

    def test_damaged_config_has_no_known_dim(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("[")
        assert VisionConfig(model=str(tmp_path)).known_dim() is None
