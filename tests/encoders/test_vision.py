"""Compare vision models with short reference scripts that follow the documentation of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.encoders.base_config import ModelSource
from ecmf_pipeline.encoders.config import VisionConfig
from ecmf_pipeline.encoders.preprocess import load_preprocessing, read_preprocessing
from ecmf_pipeline.encoders.registry import build_encoder

FAMILIES = ["clip", "clip_two_towers", "siglip", "vit", "data2vec", "dinov2", "dinov2_registers", "dinov3"]
EXTRA_TOKENS = {"siglip": 0, "dinov2_registers": 4, "dinov3": 5}
Clips = list[NDArray[np.uint8]]


def reference_pixels(folder: Path, clip: NDArray[np.uint8]) -> torch.Tensor:
    if folder.name != "dinov3":
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        pixels: torch.Tensor = processor(list(clip), return_tensors="pt")["pixel_values"]
        return pixels
    # image_processing_dinov3_vit.py: rescale, resize like torchvision on tensors, normalise
    values = json.loads((folder / "preprocessor_config.json").read_text())
    scaled = torch.from_numpy(clip.copy()).permute(0, 3, 1, 2) / 255
    size = (values["size"]["height"], values["size"]["width"])
    resized = F.interpolate(scaled, size, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    return (resized - mean) / std


def reference_output(folder: Path, clip: NDArray[np.uint8], **options: Any) -> Any:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return getattr(model, "vision_model", model)(reference_pixels(folder, clip), **options)


def utterance_features(config: VisionConfig, clip: NDArray[np.uint8]) -> NDArray[np.float32]:
    encoder = build_encoder(config, "cpu")
    mean: NDArray[np.float32] = encoder.encode([clip])[0].values.mean(axis=0)
    assert mean.shape == (encoder.dim,)
    return mean


def tolerance(name: str) -> float:
    """DINOv3's processor does not round to grey levels; all others give bit-identical pictures."""
    return 2e-2 if name == "dinov3" else 1e-4


class TestParity:
    @pytest.mark.parametrize("number", range(4))
    def test_projected_clip_features_equal_the_reference_script(
        self, tiny_models: Path, frames: Clips, number: int
    ) -> None:
        model = transformers.CLIPModel.from_pretrained(tiny_models / "clip_two_towers").eval()
        processor = transformers.CLIPImageProcessorPil.from_pretrained(tiny_models / "clip_two_towers")
        rows = []
        for frame in frames[number]:
            inputs = processor(images=frame, return_tensors="pt")
            with torch.no_grad():
                rows.append(model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0])
        expected = torch.stack(rows).mean(dim=0).numpy()
        config = VisionConfig(model=str(tiny_models / "clip_two_towers"), token_pool="projection")
        actual = utterance_features(config, frames[number])
        np.testing.assert_allclose(actual, expected, atol=1e-4)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_default_row_is_the_pooler_or_the_first_token(self, tiny_models: Path, frames: Clips, name: str) -> None:
        out = reference_output(tiny_models / name, frames[0])
        pooled = getattr(out, "pooler_output", None)
        has_no_pooler = pooled is None or name == "vit"
        rows = out.last_hidden_state[:, 0] if has_no_pooler else pooled
        actual = utterance_features(VisionConfig(model=str(tiny_models / name)), frames[0])
        np.testing.assert_allclose(actual, rows.mean(dim=0).numpy(), atol=tolerance(name))

    @pytest.mark.parametrize("name", FAMILIES)
    def test_mean_uses_patch_tokens_only(self, tiny_models: Path, frames: Clips, name: str) -> None:
        tokens = reference_output(tiny_models / name, frames[0]).last_hidden_state[:, EXTRA_TOKENS.get(name, 1) :]
        actual = utterance_features(VisionConfig(model=str(tiny_models / name), token_pool="mean"), frames[0])
        np.testing.assert_allclose(actual, tokens.mean(dim=(0, 1)).numpy(), atol=tolerance(name))

    @pytest.mark.parametrize("name", FAMILIES)
    def test_given_layers_are_used(self, tiny_models: Path, frames: Clips, name: str) -> None:
        hidden = reference_output(tiny_models / name, frames[0], output_hidden_states=True).hidden_states
        assert len(hidden) == 5
        chosen = {"last4_sum": torch.stack(hidden[-4:]).sum(dim=0), (0, 2, -1): (hidden[0] + hidden[2] + hidden[4]) / 3}
        for layers, states in chosen.items():
            tokens = states[:, EXTRA_TOKENS.get(name, 1) :]
            config = VisionConfig(model=str(tiny_models / name), layers=layers, token_pool="mean")
            actual = utterance_features(config, frames[0])
            np.testing.assert_allclose(actual, tokens.mean(dim=(0, 1)).numpy(), atol=4 * tolerance(name))

    @pytest.mark.parametrize("name", ["clip", "siglip", "vit", "data2vec", "dinov2"])
    def test_positions_are_interpolated_at_another_resolution(
        self, tiny_models: Path, frames: Clips, name: str
    ) -> None:
        side = 84 if name == "dinov2" else 64
        folder = tiny_models / name
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        square = {"height": side, "width": side}
        size = {"clip": {"shortest_edge": side}, "dinov2": {"shortest_edge": 96}}.get(name, square)
        pixels = processor(list(frames[0]), return_tensors="pt", size=size, crop_size=square)["pixel_values"]
        model = transformers.AutoModel.from_pretrained(folder).eval()
        options = {} if name == "dinov2" else {"interpolate_pos_encoding": True}
        with torch.no_grad():
            tokens = getattr(model, "vision_model", model)(pixels, **options).last_hidden_state
        rows = tokens[:, EXTRA_TOKENS.get(name, 1) :].mean(dim=(0, 1))
        actual = utterance_features(VisionConfig(model=str(folder), resolution=side, token_pool="mean"), frames[0])
        np.testing.assert_allclose(actual, rows.numpy(), atol=1e-4)

    @pytest.mark.parametrize("name", ["clip", "siglip"])
    def test_token_pool_pooler_equals_auto(self, tiny_models: Path, frames: Clips, name: str) -> None:
        auto = utterance_features(VisionConfig(model=str(tiny_models / name)), frames[0])
        np.testing.assert_array_equal(
            utterance_features(VisionConfig(model=str(tiny_models / name), token_pool="pooler"), frames[0]), auto
        )

    def test_siglip_projection_is_the_image_embedding(self, tiny_models: Path, frames: Clips) -> None:
        model = transformers.SiglipModel.from_pretrained(tiny_models / "siglip").eval()
        with torch.no_grad():
            rows = model.get_image_features(reference_pixels(tiny_models / "siglip", frames[0])).pooler_output
        actual = utterance_features(VisionConfig(model=str(tiny_models / "siglip"), token_pool="projection"), frames[0])
        np.testing.assert_allclose(actual, rows.mean(dim=0).numpy(), atol=1e-4)

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    @pytest.mark.parametrize("name", FAMILIES)
    def test_half_precision_features_are_similar(
        self, tiny_models: Path, frames: Clips, name: str, precision: Any
    ) -> None:
        config = VisionConfig(model=str(tiny_models / name), token_pool="mean")
        full = utterance_features(config, frames[0])
        half = utterance_features(config.model_copy(update={"precision": precision}), frames[0])
        assert not np.array_equal(full, half)
        assert full @ half > 0.999 * np.linalg.norm(full) * np.linalg.norm(half)


class TestDinov3:
    def test_pictures_differ_by_at_most_one_grey_level(self, tiny_models: Path, frames: Clips) -> None:
        preprocessing = load_preprocessing(ModelSource(str(tiny_models / "dinov3")))
        for clip in frames:
            actual = preprocessing.normalise(preprocessing.resize_pictures(clip))
            difference = (actual - reference_pixels(tiny_models / "dinov3", clip)).abs()
            assert (difference * torch.tensor(preprocessing.std).view(3, 1, 1)).max() < 1.01


class TestUnsupported:
    @pytest.mark.parametrize(
        ("name", "options", "cause"),
        [
            ("siglip", {"token_pool": "cls"}, "class token"),
            ("dinov2", {"token_pool": "projection"}, "projection"),
            ("clip", {"token_pool": "projection"}, "projection"),
            ("vit", {"token_pool": "pooler"}, "pooler"),
            ("clip", {"layers": (5,)}, "hidden state 5"),
            ("clip", {"resolution": 50}, "patch size 16"),
        ],
    )
    def test_unsupported_option_raises_model_error(
        self, tiny_models: Path, name: str, options: dict[str, Any], cause: str
    ) -> None:
        with pytest.raises(ModelError) as caught:
            build_encoder(VisionConfig(model=str(tiny_models / name), **options), "cpu")
        assert str(tiny_models / name) in caught.value.message
        assert cause in caught.value.message
        assert caught.value.hint is not None

    @pytest.mark.parametrize("pool", ["pooler", "projection"])
    def test_pooler_with_other_layers_is_rejected(self, pool: str) -> None:
        with pytest.raises(ValidationError, match=pool):
            VisionConfig(model="org/name", layers="last4_mean", token_pool=pool)  # type: ignore[arg-type]

    def test_processor_without_fixed_size_raises_model_error(self) -> None:
        with pytest.raises(ModelError, match="different sizes"):
            read_preprocessing(transformers.Siglip2ImageProcessorPil())

    def test_processor_without_crop_needs_a_resolution(self, tiny_models: Path, tmp_path: Path, frames: Clips) -> None:
        folder = shutil.copytree(tiny_models / "clip", tmp_path / "clip")
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 48}, do_center_crop=False).save_pretrained(folder)
        with pytest.raises(ModelError) as caught:
            build_encoder(VisionConfig(model=str(folder)), "cpu")
        assert str(folder) in caught.value.message
        assert "resolution" in (caught.value.hint or "")
        config = VisionConfig(model=str(folder), resolution=48)
        cropping = VisionConfig(model=str(tiny_models / "clip"), resolution=48)
        np.testing.assert_array_equal(utterance_features(config, frames[0]), utterance_features(cropping, frames[0]))


class TestSettings:
    def test_all_options_except_frames_are_in_the_settings(self, tiny_models: Path) -> None:
        config = VisionConfig(model=str(tiny_models / "clip"))
        options = {"layers": (1,), "token_pool": "mean", "resolution": 64, "precision": "bf16"}
        assert config.settings().keys() == {"type", *options, "recipe", "dtype", "weights"}
        for name, value in options.items():
            changed = config.model_copy(update={name: value}).settings()
            assert fingerprint(changed) != fingerprint(config.settings())

    def test_provenance_contains_weights_preprocessing_precision_and_device(self, tiny_models: Path) -> None:
        encoder = build_encoder(VisionConfig(model=str(tiny_models / "clip"), precision="bf16"), "cpu")
        provenance = json.loads(json.dumps(encoder.provenance))
        assert provenance["weights"] == encoder.settings["weights"]
        assert (provenance["precision"], provenance["device"]) == ("bf16", "cpu")
        assert provenance["preprocessing"]["crop"] == [48, 48]
        assert provenance["preprocessing"]["resample"] == "bicubic"


class TestModels:
    @pytest.mark.parametrize("name", ["clip", "clip_two_towers", "vit", "dinov2"])
    def test_rows_equal_the_reference_script(
        self, tiny_models: Path, frames: list[NDArray[np.uint8]], name: str
    ) -> None:
        kinds = {"clip": "CLIPVisionModel", "vit": "ViTModel", "dinov2": "Dinov2Model", "clip_two_towers": "CLIPModel"}
        model = getattr(transformers, kinds[name]).from_pretrained(tiny_models / name).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(tiny_models / name, backend="pil")
        encodings = build_encoder(VisionConfig(model=str(tiny_models / name)), "cpu").encode(frames)
        for clip, encoding in zip(frames, encodings, strict=True):
            pixels = processor(list(clip), return_tensors="pt")["pixel_values"]
            with torch.no_grad():
                out = (model.vision_model if name == "clip_two_towers" else model)(pixel_values=pixels)
            rows = out.last_hidden_state[:, 0] if name == "vit" else out.pooler_output
            cosine = torch.nn.functional.cosine_similarity(rows, torch.from_numpy(encoding.values))
            assert cosine.min() > 0.9999  # pictures may differ by a grey level

    def test_missing_weights_raise_model_error(self, altered_model: Callable[..., Path]) -> None:
        folder = altered_model("vit")
        state = load_file(folder / "model.safetensors")
        absent = next(name for name in state if name.endswith("weight"))
        del state[absent]
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match="1 weights") as caught:
            build_encoder(VisionConfig(model=str(folder)), "cpu")
        assert absent in caught.value.message

    def test_model_without_image_processor_raises_model_error(self, tiny_models: Path) -> None:
        with pytest.raises(ModelError, match="cannot load") as caught:
            build_encoder(VisionConfig(model=str(tiny_models / "bert")), "cpu")
        assert str(tiny_models / "bert") in caught.value.message

    def test_damaged_weights_raise_model_error(self, altered_model: Callable[..., Path]) -> None:
        folder = altered_model("vit")
        (folder / "model.safetensors").write_bytes(b"broken")
        with pytest.raises(ModelError, match="cannot load") as caught:
            build_encoder(VisionConfig(model=str(folder)), "cpu")
        assert str(folder) in caught.value.message

    def test_processor_of_another_size_raises_model_error(self, altered_model: Callable[..., Path]) -> None:
        folder = altered_model("vit", "preprocessor_config.json", size={"height": 64, "width": 64})
        with pytest.raises(ModelError, match="single pictures") as caught:
            build_encoder(VisionConfig(model=str(folder)), "cpu")
        assert str(folder) in caught.value.message
