"""Models with the shapes of CLIP-L, HuBERT-L and ViT-B and random weights."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.encoders.config import AudioConfig, VisionConfig
from tools.gpu_check.bench import N_SOURCES, Bench, Sizes
from tools.gpu_check.inputs import generate_clip


def set_up(folder: Path, device: str, sizes: Sizes) -> Bench:
    """Save the models with random weights, and generate the clips."""
    # bf16 on CUDA from compute capability 8, fp16 on older CUDA. "auto" may be fp32 on a CPU.
    precision = "auto" if device.startswith("cuda") else "bf16"
    models = {modality: save_model(modality, folder / modality.value, sizes) for modality in sizes.shapes}
    encoders: dict[Modality, VisionConfig | AudioConfig] = {
        # Of random weights the class token depends little on the picture, the mean of the patches does.
        Modality.GLOBAL: VisionConfig(
            model=models[Modality.GLOBAL], precision=precision, token_pool="mean", batch_size=64
        ),
        Modality.AUDIO: AudioConfig(model=models[Modality.AUDIO], precision=precision, batch_size=16),
        Modality.FACE: VisionConfig(model=models[Modality.FACE], precision=precision, token_pool="mean", batch_size=64),
    }
    decodes = find_spec("av") is not None
    sources = [generate_clip(folder, number, sizes, writes=decodes) for number in range(N_SOURCES)]
    return Bench(device, sizes, folder, encoders, sources)


def save_model(modality: Modality, folder: Path, sizes: Sizes) -> str:
    """Save a model with random weights and its preprocessing; return its folder."""
    square = {"height": sizes.side, "width": sizes.side}
    shape = sizes.shapes[modality]
    processor: Any
    model: Any
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if modality is Modality.GLOBAL:
            model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(image_size=sizes.side, **shape))
            processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": sizes.side}, crop_size=square)
        elif modality is Modality.FACE:
            config = transformers.ViTConfig(image_size=sizes.side, **shape)
            model = transformers.ViTModel(config, add_pooling_layer=False)
            processor = transformers.ViTImageProcessorPil(size=square)
        else:
            large = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
            model = transformers.HubertModel(transformers.HubertConfig(**large, **shape))
            processor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
