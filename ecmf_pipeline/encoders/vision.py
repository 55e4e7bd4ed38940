"""Any transformers vision model as an encoder of frames or face crops."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from transformers import AutoImageProcessor

from ecmf_pipeline.encoders.config import VisionConfig
from ecmf_pipeline.encoders.inference import Inference, RunPrecision
from ecmf_pipeline.encoders.pictures import PictureEncoder, PicturePreparer
from ecmf_pipeline.encoders.preprocess import Preprocessing, read_preprocessing
from ecmf_pipeline.encoders.pretrained import load_model, load_part
from ecmf_pipeline.encoders.weights import ModelSource
from ecmf_pipeline.errors import ModelError


def load_preprocessing(source: ModelSource) -> Preprocessing:
    """Read what a model's own image processor does.

    Raises:
        ModelError: When there is none, or when it does something that `Preprocessing` cannot.
    """
    processor = load_part(
        source, lambda name, **where: AutoImageProcessor.from_pretrained(name, backend="pil", **where)
    )
    return read_preprocessing(processor)


class VisionEncoder(PictureEncoder):
    """A frozen vision model: a row a frame.

    The row is the model's own pooled output where its weights hold one (CLIP, SigLIP, DINOv2, ViT with a pooler), else
    the first token. Of a model with two towers the vision tower alone is kept.
    """

    def __init__(self, config: VisionConfig, device: str = "auto") -> None:
        self._config = config
        self._settings = config.settings()
        self.inference = Inference(device, config.batch_size, cast("RunPrecision", config.resolved(device).precision))
        source = config.source()
        model, self._pools = load_model(source)
        self.model = self.inference.place(getattr(model, "vision_model", model))
        self.preparer = PicturePreparer(load_preprocessing(source))
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
        out = self.model(pixel_values=self.preparer.preprocessing.normalised(frames))
        pooled = getattr(out, "pooler_output", None)
        row: torch.Tensor = out.last_hidden_state[:, 0] if pooled is None or not self._pools else pooled
        return row.flatten(1)  # (B, D), also where convolutional models keep 1 x 1 maps

    def _probe(self, name: str) -> int:
        """The width of a row, and the proof that the model takes what its own processor prepares."""
        try:
            prepared = self.preparer.prepare(np.zeros((1, 64, 64, 3), np.uint8))
            return int(self.inference.rows_of_clips([prepared], self._forward)[0].shape[1])
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise ModelError(f"{name} does not describe single pictures ({error})", "choose an image model") from error
