"""Any transformers vision model as an encoder of frames or face crops."""

from __future__ import annotations

import inspect
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ecmf_pipeline.encoders.config import VisionConfig
from ecmf_pipeline.encoders.image_processors import load_preprocessing
from ecmf_pipeline.encoders.inference import Inference, RunPrecision
from ecmf_pipeline.encoders.pictures import PictureEncoder, PicturePreparer
from ecmf_pipeline.encoders.pretrained import check_layers, combine_layers, load_model
from ecmf_pipeline.errors import ModelError


class VisionEncoder(PictureEncoder):
    """A frozen vision model: a row a frame, made as `VisionConfig` says.

    Of a model with two towers the vision tower alone is kept.
    """

    def __init__(self, config: VisionConfig, device: str = "auto") -> None:
        self._config = config
        self._settings = config.settings()
        self.inference = Inference(device, config.batch_size, cast("RunPrecision", config.resolved(device).precision))
        source = config.source()
        model, trained = load_model(source, dtype=self.inference.loaded_as)
        self.model: nn.Module = getattr(model, "vision_model", model)
        self._projection: nn.Module | None = getattr(model, "visual_projection", None)
        self._pool = self._chosen_pool(trained)
        if config.layers != "last":
            check_layers(source, self.model, config.layers)
        self.preparer = PicturePreparer(load_preprocessing(source, config.resolution))
        self._options = self._forward_options()
        self.inference.place(self.model)
        if self._pool == "projection" and self._projection is not None:
            self.inference.place(self._projection)
        else:
            self._projection = None
        self._dim = self._probe(config.model)

    @property
    def dim(self) -> int:
        """D, the width of a row."""
        return self._dim

    @property
    def settings(self) -> dict[str, Any]:
        """See `VisionConfig.settings`."""
        return self._settings

    def _chosen_pool(self, pooler_is_trained: bool) -> str:
        """What ``auto`` means here, and that the model has what is asked for.

        Raises:
            ModelError: When it has not.
        """
        kind = str(getattr(self.model.config, "model_type", ""))
        pool = self._config.token_pool
        if pool == "auto":
            return "pooler_if_any" if pooler_is_trained and self._config.layers == "last" else "first"
        if pool == "projection" and self._projection is None:
            if kind.startswith("siglip"):
                return "pooler"  # which is what SigLIP compares with texts
            raise ModelError(
                f"{self._config.model} has no projection", "choose a CLIP or SigLIP model with both towers"
            )
        if pool == "pooler" and not pooler_is_trained:
            raise ModelError(f"the weights of {self._config.model} hold no pooler", "set token_pool to cls or mean")
        return pool

    def _forward_options(self) -> dict[str, Any]:
        """What the model is to do beside its default.

        Raises:
            ModelError: When it cannot take pictures of the size that is asked for.
        """
        options: dict[str, Any] = {}
        if self._config.layers != "last":
            options["output_hidden_states"] = True
        if self._config.resolution is not None:
            patch = getattr(self.model.config, "patch_size", 1)
            if self._config.resolution % patch:
                raise ModelError(
                    f"a resolution of {self._config.resolution} is no whole number of {self._config.model}'s patches",
                    f"set it to a multiple of {patch}",
                )
            if "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters:
                options["interpolate_pos_encoding"] = True
        return options

    def _forward(self, frames: torch.Tensor) -> torch.Tensor:
        pixels = self.preparer.preprocessing.normalised(frames)  # (B, 3, H, W)
        out = self.model(pixel_values=pixels, **self._options)
        pooled = getattr(out, "pooler_output", None)
        if self._pool in {"pooler", "projection", "pooler_if_any"} and pooled is not None:
            row: torch.Tensor = pooled if self._projection is None else self._projection(pooled)
            return row.flatten(1)  # (B, D), also where convolutional models keep 1 x 1 maps
        if self._pool in {"pooler", "projection"}:
            raise ModelError(f"{self._config.model} has no pooler", "set token_pool to cls or mean")
        states = out.last_hidden_state if self._config.layers == "last" else out.hidden_states
        tokens = states if self._config.layers == "last" else combine_layers(states, self._config.layers)  # (B, N, D)
        return self._of_tokens(tokens, pixels.shape[-2], pixels.shape[-1])

    def _of_tokens(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """From tokens, class and register tokens first, (B, N, D), to rows (B, D)."""
        if self._pool == "pooler_if_any" or (self._pool == "first" and tokens.ndim != 3):
            return tokens[:, 0].flatten(1)
        patch = getattr(self.model.config, "patch_size", None)
        extra = None if not isinstance(patch, int) else tokens.shape[1] - (height // patch) * (width // patch)
        if extra is None or extra < 0:
            if self._pool == "first":
                return tokens[:, 0]
            raise ModelError(f"the tokens of {self._config.model} are not its patches", "set token_pool to auto")
        if self._pool == "cls" and not extra:
            raise ModelError(f"{self._config.model} has no class token", "set token_pool to mean or pooler")
        if self._pool == "mean" or not extra:
            return tokens[:, extra:].mean(dim=1)
        return tokens[:, 0]

    def _probe(self, name: str) -> int:
        """The width of a row, and the proof that the model takes what its own processor prepares."""
        try:
            prepared = self.preparer.prepare(np.zeros((1, 64, 64, 3), np.uint8))
            return int(self.inference.rows_of_clips([prepared], self._forward)[0].shape[1])
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise ModelError(f"{name} does not describe single pictures ({error})", "choose an image model") from error
