"""Contract of all encoders: a test class for a new encoder inherits `EncoderContract`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from ecmf_pipeline.core.clips import ClipText
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.encoders.base import Encoder
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig
from ecmf_pipeline.encoders.config import (
    AudioConfig,
    EfficientNetConfig,
    EgemapsConfig,
    EncoderConfig,
    MiniXceptionConfig,
    TextConfig,
    VideoConfig,
    VisionConfig,
)
from ecmf_pipeline.encoders.registry import build_encoder


def copy_with_one_more_byte(path: Path, folder: Path) -> Path:
    copy = folder / path.name
    copy.write_bytes(path.read_bytes() + b" ")
    return copy


class EncoderContract:
    """Tests of any encoder. Subclasses define the fixtures ``config`` and ``views``."""

    tolerance = 1e-5

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls) -> BaseEncoderConfig:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls) -> list[Any]:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, config: BaseEncoderConfig) -> Iterator[Encoder[Any]]:
        encoder = build_encoder(config, "cpu")
        yield encoder
        encoder.close()

    def test_rows_are_finite_and_match_kept(self, encoder: Encoder[Any], views: list[Any]) -> None:
        for encoding in encoder.encode(views):
            assert encoding.values.dtype == np.float32
            assert encoding.values.shape == (len(encoding.kept), encoder.dim)
            assert encoding.kept.dtype == np.int64
            assert (np.diff(encoding.kept) > 0).all()
            assert np.isfinite(encoding.values.astype(encoder.dtype)).all()

    def test_different_views_have_different_rows(self, encoder: Encoder[Any], views: list[Any]) -> None:
        first, second = (encoding.values[0] for encoding in encoder.encode(views[:2]))
        assert np.abs(first - second).max() > 10 * self.tolerance

    def test_rows_do_not_depend_on_the_other_views(self, encoder: Encoder[Any], views: list[Any]) -> None:
        together = encoder.encode(views)
        reverse = encoder.encode(views[::-1])[::-1]
        separate = [encoder.encode([view])[0] for view in views]
        for expected, reversed_, alone in zip(together, reverse, separate, strict=True):
            np.testing.assert_allclose(reversed_.values, expected.values, atol=self.tolerance, rtol=self.tolerance)
            np.testing.assert_allclose(alone.values, expected.values, atol=self.tolerance, rtol=self.tolerance)
            np.testing.assert_array_equal(alone.kept, expected.kept)

    def test_rows_do_not_depend_on_batch_size(
        self, config: BaseEncoderConfig, encoder: Encoder[Any], views: list[Any]
    ) -> None:
        unbatched = build_encoder(config.model_copy(update={"batch_size": 1}), "cpu")
        for one, many in zip(unbatched.encode(views), encoder.encode(views), strict=True):
            np.testing.assert_allclose(one.values, many.values, atol=self.tolerance, rtol=self.tolerance)
        assert unbatched.settings == encoder.settings
        unbatched.close()

    def test_encoding_is_deterministic(self, encoder: Encoder[Any], views: list[Any]) -> None:
        for one, two in zip(encoder.encode(views), encoder.encode(views), strict=True):
            assert one.values.tobytes() == two.values.tobytes()

    def test_no_views_give_no_encodings(self, encoder: Encoder[Any]) -> None:
        assert encoder.encode([]) == []

    def test_networks_are_frozen(self, encoder: Encoder[Any]) -> None:
        networks = [value for value in vars(encoder).values() if isinstance(value, torch.nn.Module)]
        assert not any(module.training for network in networks for module in network.modules())
        assert not any(parameter.requires_grad for network in networks for parameter in network.parameters())

    def test_settings_are_json_and_equal_those_of_the_config(
        self, config: BaseEncoderConfig, encoder: Encoder[Any]
    ) -> None:
        assert json.loads(json.dumps(encoder.settings)) == encoder.settings == config.settings()

    def test_config_is_a_valid_params_entry(self, config: BaseEncoderConfig) -> None:
        assert TypeAdapter(EncoderConfig).validate_python(config.model_dump(mode="json")) == config
        assert config.modalities

    def test_other_weights_change_the_fingerprint(self, config: BaseEncoderConfig, tmp_path: Path) -> None:
        for other in self.with_other_weights(config, tmp_path):
            assert fingerprint(other.settings()) != fingerprint(config.settings())

    def with_other_weights(self, config: Any, folder: Path) -> list[BaseEncoderConfig]:
        raise NotImplementedError


class TransformersContract(EncoderContract):
    """Tests of models in a local folder, whose location has no effect."""

    def with_other_weights(self, config: Any, folder: Path) -> list[BaseEncoderConfig]:
        shutil.copytree(config.model, folder / "model")
        moved = config.model_copy(update={"model": str(folder / "model")})
        assert moved.settings() == config.settings()
        weights = folder / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes() + b" ")
        return [moved]


class TestEfficientNet(EncoderContract):
    tolerance = 1e-4

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, models: Path) -> EfficientNetConfig:
        return EfficientNetConfig(weights=models / "efficientnet_lite0" / "efficientnet-lite0-57934424.pth")

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls, frames: list[Any]) -> list[Any]:
        return frames

    def with_other_weights(self, config: EfficientNetConfig, folder: Path) -> list[BaseEncoderConfig]:
        return [config.model_copy(update={"weights": copy_with_one_more_byte(config.weights, folder)})]


class TestMiniXception(EncoderContract):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, models: Path) -> MiniXceptionConfig:
        return MiniXceptionConfig(
            weights=models / "mini_xception" / "emotion_model.hdf5",
            face_landmarker=models / "face_landmarker" / "face_landmarker.task",
        )

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls, tracks: list[Any]) -> list[Any]:
        return tracks

    def with_other_weights(self, config: MiniXceptionConfig, folder: Path) -> list[BaseEncoderConfig]:
        return [
            config.model_copy(update={"weights": copy_with_one_more_byte(config.weights, folder)}),
            config.model_copy(update={"face_landmarker": copy_with_one_more_byte(config.face_landmarker, folder)}),
        ]


class TestEgemaps(EncoderContract):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls) -> EgemapsConfig:
        return EgemapsConfig()

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls, sounds: list[Any]) -> list[Any]:
        return [*sounds, np.zeros(100, np.float32)]

    def with_other_weights(self, config: EgemapsConfig, folder: Path) -> list[BaseEncoderConfig]:
        return []  # openSMILE has no weights


class TestVision(TransformersContract):
    @pytest.fixture(scope="class", params=["clip", "clip_two_towers", "siglip", "vit", "data2vec", "dinov2", "dinov3"])
    @classmethod
    def config(cls, request: pytest.FixtureRequest, tiny_models: Path) -> VisionConfig:
        return VisionConfig(model=str(tiny_models / request.param), batch_size=3)

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls, frames: list[Any]) -> list[Any]:
        return frames


class TestVisionOnFaces(TransformersContract):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, tiny_models: Path) -> VisionConfig:
        return VisionConfig(model=str(tiny_models / "vit"), batch_size=4)

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls, tracks: list[Any]) -> list[Any]:
        return tracks[::-1]


class TestAudio(TransformersContract):
    @pytest.fixture(scope="class", params=["hubert", "hubert_large", "wav2vec2", "wavlm", "data2vec_audio", "whisper"])
    @classmethod
    def config(cls, request: pytest.FixtureRequest, tiny_models: Path) -> AudioConfig:
        return AudioConfig(model=str(tiny_models / request.param), batch_size=3, layers="last4_mean")

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls, sounds: list[Any]) -> list[Any]:
        return [*sounds, np.zeros(100, np.float32)]


class TestText(TransformersContract):
    @pytest.fixture(
        scope="class",
        params=[
            {"model": "bert", "inputs": ("original", "enriched", "translation"), "special_tokens": False},
            {"model": "sentence", "inputs": "both"},
            {"model": "roberta", "inputs": "both", "token_pool": "cls", "layers": "last"},
            {"model": "llama", "inputs": "both", "token_pool": "last", "layers": (-2,)},
            {"model": "llama", "inputs": "both", "token_pool": "max"},
        ],
        ids=lambda options: f"{options['model']}-{options.get('token_pool', 'auto')}",
    )
    @classmethod
    def config(cls, request: pytest.FixtureRequest, tiny_models: Path) -> TextConfig:
        options = {"layers": "last4_sum", **request.param, "model": str(tiny_models / request.param["model"])}
        return TextConfig(batch_size=2, **options)

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls) -> list[Any]:
        return [
            ClipText("i am so very happy today", "what a nice surprise", "so nice"),
            ClipText("sad", "sad", "sad"),
            ClipText("i miss my mother", "sad " * 40, "i am sad"),
            ClipText("i am so very happy today", "angry", "a surprise"),
        ]


class TestVideo(TransformersContract):
    @pytest.fixture(scope="class", params=["videomae", "videomae_tuned"])
    @classmethod
    def config(cls, request: pytest.FixtureRequest, tiny_models: Path) -> VideoConfig:
        return VideoConfig(model=str(tiny_models / request.param), rows="tubelet")

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls, frames: list[Any]) -> list[Any]:
        return [np.stack([np.roll(clip[0], 9 * turn, axis=1) for turn in range(4)]) for clip in frames]


class TestMiniLM(TransformersContract):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, models: Path) -> TextConfig:
        return TextConfig(model=str(models / "minilm"))

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls) -> list[Any]:
        return [ClipText("I miss my mother."), ClipText("What a nice surprise! " * 20), ClipText("Well...")]
