"""Vision models against short scripts written after the documentation of transformers."""

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


def plain_pixels(folder: Path, clip: NDArray[np.uint8]) -> torch.Tensor:
    if folder.name != "dinov3":
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        pixels: torch.Tensor = processor(list(clip), return_tensors="pt")["pixel_values"]
        return pixels
    # image_processing_dinov3_vit.py: rescale, resize as torchvision does tensors, normalise
    values = json.loads((folder / "preprocessor_config.json").read_text())
    scaled = torch.from_numpy(clip.copy()).permute(0, 3, 1, 2) / 255
    size = (values["size"]["height"], values["size"]["width"])
    resized = F.interpolate(scaled, size, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    return (resized - mean) / std


def plain_output(folder: Path, clip: NDArray[np.uint8], **options: Any) -> Any:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return getattr(model, "vision_model", model)(plain_pixels(folder, clip), **options)


def utterance(config: VisionConfig, clip: NDArray[np.uint8]) -> NDArray[np.float32]:
    encoder = build_encoder(config, "cpu")
    mean: NDArray[np.float32] = encoder.encode([clip])[0].values.mean(axis=0)
    assert mean.shape == (encoder.dim,)
    return mean


def tolerance(name: str) -> float:
    """DINOv3's own pictures are not rounded to grey levels; all others are the same to the byte."""
    return 2e-2 if name == "dinov3" else 1e-4


class TestParity:
    @pytest.mark.parametrize("number", range(4))
    def test_clips_projected_utterances_equal_a_plain_script(self, tiny: Path, frames: Clips, number: int) -> None:
        model = transformers.CLIPModel.from_pretrained(tiny / "clip_two_towers").eval()
        processor = transformers.CLIPImageProcessorPil.from_pretrained(tiny / "clip_two_towers")
        rows = []
        for frame in frames[number]:
            inputs = processor(images=frame, return_tensors="pt")
            with torch.no_grad():
                rows.append(model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0])
        theirs = torch.stack(rows).mean(dim=0).numpy()
        ours = utterance(VisionConfig(model=str(tiny / "clip_two_towers"), token_pool="projection"), frames[number])
        np.testing.assert_allclose(ours, theirs, atol=1e-4)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_default_row_is_the_pooler_or_the_first_token(self, tiny: Path, frames: Clips, name: str) -> None:
        out = plain_output(tiny / name, frames[0])
        pooled = getattr(out, "pooler_output", None)
        untrained = pooled is None or name == "vit"  # whose folder holds no pooler
        rows = out.last_hidden_state[:, 0] if untrained else pooled
        ours = utterance(VisionConfig(model=str(tiny / name)), frames[0])
        np.testing.assert_allclose(ours, rows.mean(dim=0).numpy(), atol=tolerance(name))

    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_mean_of_patches_leaves_other_tokens_out(self, tiny: Path, frames: Clips, name: str) -> None:
        tokens = plain_output(tiny / name, frames[0]).last_hidden_state[:, EXTRA_TOKENS.get(name, 1) :]
        ours = utterance(VisionConfig(model=str(tiny / name), token_pool="mean"), frames[0])
        np.testing.assert_allclose(ours, tokens.mean(dim=(0, 1)).numpy(), atol=tolerance(name))

    @pytest.mark.parametrize("name", FAMILIES)
    def test_layers_are_those_that_are_named(self, tiny: Path, frames: Clips, name: str) -> None:
        hidden = plain_output(tiny / name, frames[0], output_hidden_states=True).hidden_states
        assert len(hidden) == 5
        chosen = {"last4_sum": torch.stack(hidden[-4:]).sum(dim=0), (0, 2, -1): (hidden[0] + hidden[2] + hidden[4]) / 3}
        for layers, states in chosen.items():
            tokens = states[:, EXTRA_TOKENS.get(name, 1) :]
            config = VisionConfig(model=str(tiny / name), layers=layers, token_pool="mean")
            ours = utterance(config, frames[0])
            np.testing.assert_allclose(ours, tokens.mean(dim=(0, 1)).numpy(), atol=4 * tolerance(name))

    @pytest.mark.parametrize("name", ["clip", "siglip", "vit", "data2vec", "dinov2"])
    def test_at_another_resolution_positions_are_interpolated(self, tiny: Path, frames: Clips, name: str) -> None:
        side = 84 if name == "dinov2" else 64
        folder = tiny / name
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        square = {"height": side, "width": side}
        size = {"clip": {"shortest_edge": side}, "dinov2": {"shortest_edge": 96}}.get(name, square)
        pixels = processor(list(frames[0]), return_tensors="pt", size=size, crop_size=square)["pixel_values"]
        model = transformers.AutoModel.from_pretrained(folder).eval()
        options = {} if name == "dinov2" else {"interpolate_pos_encoding": True}
        with torch.no_grad():
            tokens = getattr(model, "vision_model", model)(pixels, **options).last_hidden_state
        rows = tokens[:, EXTRA_TOKENS.get(name, 1) :].mean(dim=(0, 1))
        ours = utterance(VisionConfig(model=str(folder), resolution=side, token_pool="mean"), frames[0])
        np.testing.assert_allclose(ours, rows.numpy(), atol=1e-4)

    @pytest.mark.parametrize("name", ["clip", "siglip"])
    def test_the_pooler_can_be_asked_for_by_name(self, tiny: Path, frames: Clips, name: str) -> None:
        auto = utterance(VisionConfig(model=str(tiny / name)), frames[0])
        np.testing.assert_array_equal(
            utterance(VisionConfig(model=str(tiny / name), token_pool="pooler"), frames[0]), auto
        )

    def test_siglips_projection_is_its_image_embedding(self, tiny: Path, frames: Clips) -> None:
        model = transformers.SiglipModel.from_pretrained(tiny / "siglip").eval()
        with torch.no_grad():
            rows = model.get_image_features(plain_pixels(tiny / "siglip", frames[0])).pooler_output
        ours = utterance(VisionConfig(model=str(tiny / "siglip"), token_pool="projection"), frames[0])
        np.testing.assert_allclose(ours, rows.mean(dim=0).numpy(), atol=1e-4)

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    @pytest.mark.parametrize("name", FAMILIES)
    def test_half_precision_stays_close(self, tiny: Path, frames: Clips, name: str, precision: Any) -> None:
        full = utterance(VisionConfig(model=str(tiny / name), token_pool="mean"), frames[0])
        half = utterance(VisionConfig(model=str(tiny / name), token_pool="mean", precision=precision), frames[0])
        assert not np.array_equal(full, half)
        assert full @ half > 0.999 * np.linalg.norm(full) * np.linalg.norm(half)


class TestDinov3:
    def test_its_pictures_differ_by_less_than_a_grey_level(self, tiny: Path, frames: Clips) -> None:
        preprocessing = load_preprocessing(ModelSource(str(tiny / "dinov3")))
        for clip in frames:
            ours = preprocessing.normalise(preprocessing.resize_pictures(clip))
            levels = (ours - plain_pixels(tiny / "dinov3", clip)).abs() * torch.tensor(preprocessing.std).view(3, 1, 1)
            assert levels.max() < 1.01


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("siglip", {"token_pool": "cls"}, "no class token"),
            ("dinov2", {"token_pool": "projection"}, "no projection"),
            ("clip", {"token_pool": "projection"}, "no projection"),
            ("vit", {"token_pool": "pooler"}, "no pooler"),
            ("clip", {"layers": (5,)}, "no hidden state 5"),
            ("clip", {"resolution": 50}, "multiple of 16"),
        ],
    )
    def test_what_a_model_has_not_is_a_model_error(
        self, tiny: Path, name: str, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ModelError, match=message):
            build_encoder(VisionConfig(model=str(tiny / name), **options), "cpu")

    @pytest.mark.parametrize("pool", ["pooler", "projection"])
    def test_a_pooler_is_of_the_last_layer(self, pool: str) -> None:
        with pytest.raises(ValidationError, match="set layers to last"):
            VisionConfig(model="org/name", layers="last4_mean", token_pool=pool)  # type: ignore[arg-type]

    def test_pictures_of_no_one_size_are_refused(self) -> None:
        with pytest.raises(ModelError, match="no one size"):
            read_preprocessing(transformers.Siglip2ImageProcessorPil())

    def test_a_processor_that_does_not_crop_needs_a_resolution(self, tiny: Path, tmp_path: Path, frames: Clips) -> None:
        folder = shutil.copytree(tiny / "clip", tmp_path / "clip")
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 48}, do_center_crop=False).save_pretrained(folder)
        with pytest.raises(ModelError, match="resolution"):
            build_encoder(VisionConfig(model=str(folder)), "cpu")
        config = VisionConfig(model=str(folder), resolution=48)
        np.testing.assert_array_equal(
            utterance(config, frames[0]), utterance(VisionConfig(model=str(tiny / "clip"), resolution=48), frames[0])
        )


class TestSettings:
    def test_every_option_but_the_number_of_frames_is_in_them(self, tiny: Path) -> None:
        config = VisionConfig(model=str(tiny / "clip"))
        options = {"layers": (1,), "token_pool": "mean", "resolution": 64, "precision": "bf16"}
        assert config.settings().keys() == {"type", *options, "recipe", "dtype", "weights"}
        for name, value in options.items():
            changed = config.model_copy(update={name: value}).settings()
            assert fingerprint(changed) != fingerprint(config.settings())

    def test_provenance_tells_weights_preprocessing_precision_and_device(self, tiny: Path) -> None:
        encoder = build_encoder(VisionConfig(model=str(tiny / "clip"), precision="bf16"), "cpu")
        told = json.loads(json.dumps(encoder.provenance))
        assert told["weights"] == encoder.settings["weights"]
        assert (told["precision"], told["device"]) == ("bf16", "cpu")
        assert told["preprocessing"]["crop"] == [48, 48]
        assert told["preprocessing"]["resample"] == "bicubic"


class TestModels:
    @pytest.mark.parametrize("name", ["clip", "clip_two_towers", "vit", "dinov2"])
    def test_rows_equal_a_plain_script(self, tiny: Path, frames: list[NDArray[np.uint8]], name: str) -> None:
        kinds = {"clip": "CLIPVisionModel", "vit": "ViTModel", "dinov2": "Dinov2Model", "clip_two_towers": "CLIPModel"}
        model = getattr(transformers, kinds[name]).from_pretrained(tiny / name).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(tiny / name, backend="pil")
        encodings = build_encoder(VisionConfig(model=str(tiny / name)), "cpu").encode(frames)
        for clip, encoding in zip(frames, encodings, strict=True):
            pixels = processor(list(clip), return_tensors="pt")["pixel_values"]
            with torch.no_grad():
                out = (model.vision_model if name == "clip_two_towers" else model)(pixel_values=pixels)
            rows = out.last_hidden_state[:, 0] if name == "vit" else out.pooler_output
            cosine = torch.nn.functional.cosine_similarity(rows, torch.from_numpy(encoding.values))
            assert cosine.min() > 0.9999  # pictures may differ by a grey level

    def test_missing_weights_are_a_model_error(self, altered: Callable[..., Path]) -> None:
        folder = altered("vit")
        state = load_file(folder / "model.safetensors")
        del state[next(name for name in state if name.endswith("weight"))]
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match="lacks 1 weights"):
            build_encoder(VisionConfig(model=str(folder)), "cpu")

    def test_a_model_without_image_processor_is_a_model_error(self, tiny: Path) -> None:
        with pytest.raises(ModelError, match="cannot load"):
            build_encoder(VisionConfig(model=str(tiny / "bert")), "cpu")

    def test_damaged_weights_are_a_model_error(self, altered: Callable[..., Path]) -> None:
        folder = altered("vit")
        (folder / "model.safetensors").write_bytes(b"broken")
        with pytest.raises(ModelError, match="cannot load"):
            build_encoder(VisionConfig(model=str(folder)), "cpu")

    def test_a_processor_that_does_not_fit_its_model_is_a_model_error(self, altered: Callable[..., Path]) -> None:
        folder = altered("vit", "preprocessor_config.json", size={"height": 64, "width": 64})
        with pytest.raises(ModelError, match="does not describe single pictures"):
            build_encoder(VisionConfig(model=str(folder)), "cpu")
