"""Transformers encoders against short scripts written after the library's own documentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.config import VisionConfig
from ecmf_pipeline.encoders.preprocess import read_preprocessing
from ecmf_pipeline.encoders.registry import build_encoder


class TestPreprocessing:
    @pytest.mark.parametrize(
        "processor",
        [
            transformers.CLIPImageProcessorPil(),
            transformers.ViTImageProcessorPil(),
            transformers.SiglipImageProcessorPil(),
            transformers.BeitImageProcessorPil(),
            transformers.BitImageProcessorPil(),
            transformers.SiglipImageProcessorPil(size={"height": 256, "width": 192}),
            transformers.BitImageProcessorPil(size={"shortest_edge": 256}, do_center_crop=True),
            transformers.CLIPImageProcessorPil(size={"shortest_edge": 60}, crop_size={"height": 97, "width": 64}),
            transformers.ViTImageProcessorPil(size={"height": 90, "width": 90}, do_normalize=False),
        ],
        ids=["clip", "vit", "siglip", "data2vec", "dinov2", "siglip_256", "dinov2_256", "padded", "unnormalised"],
    )
    def test_it_equals_pillow_to_the_byte(self, processor: Any, frames: list[NDArray[np.uint8]]) -> None:
        preprocessing = read_preprocessing(processor)
        for clip in frames:
            theirs = np.stack(processor(list(clip), return_tensors="np")["pixel_values"])
            ours = preprocessing.normalised(preprocessing.resized(clip)).numpy()
            np.testing.assert_allclose(ours, theirs, atol=2e-6)  # a grey level is 0.0078 or more

    @pytest.mark.parametrize(
        "processor",
        [
            transformers.CLIPImageProcessorPil(resample=1),
            transformers.CLIPImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 99}),
            transformers.ConvNextImageProcessorPil(size={"shortest_edge": 224}),  # crops by a share of its own
        ],
        ids=["lanczos", "bounded", "convnext"],
    )
    def test_what_it_cannot_do_is_refused(self, processor: Any) -> None:
        with pytest.raises(ModelError):
            read_preprocessing(processor)


class TestVision:
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
