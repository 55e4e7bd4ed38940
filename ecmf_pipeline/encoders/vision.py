"""Any transformers vision model as an encoder of frames or face crops."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor

from ecmf_pipeline.encoders.config import VisionConfig
from ecmf_pipeline.encoders.inference import pick_device
from ecmf_pipeline.encoders.pictures import PictureEncoder
from ecmf_pipeline.encoders.preprocess import read_preprocessing
from ecmf_pipeline.encoders.pretrained import load_model, load_part
from ecmf_pipeline.errors import ModelError


class VisionEncoder(PictureEncoder):
    """A frozen vision model: a row a frame.

    The row is the model's own pooled output where its weights hold one (CLIP, SigLIP, DINOv2, ViT with a pooler), else
    the first token. Of a model with two towers the vision tower alone is kept.
    """

    def __init__(self, config: VisionConfig, device: str = "auto") -> None:
        self._config = config
        self._settings = config.settings()
        self._device = pick_device(device)
        self.batch_size = config.batch_size
        source = config.source()
        model, self._pools = load_model(source, self._device)
        self.model = getattr(model, "vision_model", model)
        processor = load_part(
            source, lambda name, **where: AutoImageProcessor.from_pretrained(name, backend="pil", **where)
        )
        self.preprocessing = read_preprocessing(processor)
        self._dim = self._probe(config.model)

    @property
    def dim(self) -> int:
        """D, the width of the model's pooled output."""
        return self._dim

    @property
    def settings(self) -> dict[str, Any]:
        """See `VisionConfig.settings`."""
        return self._settings

    def _forward(self, frames: torch.Tensor) -> torch.Tensor:
        out = self.model(pixel_values=self.preprocessing.normalised(frames.to(self._device)))
        pooled = getattr(out, "pooler_output", None)
        row: torch.Tensor = out.last_hidden_state[:, 0] if pooled is None or not self._pools else pooled
        return row.flatten(1)  # (B, D), also where convolutional models keep 1 x 1 maps

    @torch.inference_mode()
    def _probe(self, name: str) -> int:
        """The width of a row, and the proof that the model takes what its own processor prepares."""
        try:
            return self._forward(self.preprocessing.resized(np.zeros((1, 64, 64, 3), np.uint8))).shape[1]
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise ModelError(f"{name} does not describe single pictures ({error})", "choose an image model") from error
