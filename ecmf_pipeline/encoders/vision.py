"""transformers vision models as encoders of frames or face crops: models of single pictures, and VideoMAE."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer, view_pictures
from ecmf_pipeline.encoders.base_config import ModelSource
from ecmf_pipeline.encoders.config import VideoConfig, VisionConfig
from ecmf_pipeline.encoders.inference import (
    Inference,
    build_inference,
    check_layers,
    load_model,
    load_pretrained,
    select_layers,
)
from ecmf_pipeline.encoders.preprocess import PictureEncoder, PicturePreparer, Preprocessing, load_preprocessing


def build_vision_preparer(config: VisionConfig) -> PicturePreparer:
    """Build the preprocessing of a model of single pictures.

    Raises:
        ModelError: If the model has no image processor, or an unsupported one.
    """
    return PicturePreparer(load_preprocessing(config.source(), config.resolution))


class VisionEncoder(PictureEncoder):
    """A frozen vision model: one row for each frame, pooled as `VisionConfig` defines.

    Only the vision tower of a model with two towers is kept.
    """

    def __init__(self, config: VisionConfig, device: str = "auto") -> None:
        self._config = config
        self.settings = config.settings()
        self.inference = build_inference(config, device)
        source = config.source()
        model, trained = load_model(source, dtype=self.inference.load_dtype)
        self.model: nn.Module = getattr(model, "vision_model", model)
        self._projection: nn.Module | None = getattr(model, "visual_projection", None)
        self._pool = self._resolve_pool(trained)
        if config.layers != "last":
            check_layers(source, self.model, config.layers)
        self.preparer = build_vision_preparer(config)
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

    def _resolve_pool(self, pooler_is_trained: bool) -> str:
        """Resolve ``auto``, and check that the model supports the pooling.

        Raises:
            ModelError: If it does not.
        """
        kind = str(getattr(self.model.config, "model_type", ""))
        pool = self._config.token_pool
        if pool == "auto":
            return "pooler_if_any" if pooler_is_trained and self._config.layers == "last" else "first"
        if pool == "projection" and self._projection is None:
            if kind.startswith("siglip"):
                return "pooler"  # the embedding that SigLIP compares with texts
            raise ModelError(
                f"model {self._config.model} has no projection", "choose a CLIP or SigLIP model with both towers"
            )
        if pool == "pooler" and not pooler_is_trained:
            raise ModelError(f"the weights of {self._config.model} have no pooler", "set token_pool to cls or mean")
        return pool

    def _forward_options(self) -> dict[str, Any]:
        """Return the options of the forward pass.

        Raises:
            ModelError: If the model does not support the resolution.
        """
        options: dict[str, Any] = {}
        if self._config.layers != "last":
            options["output_hidden_states"] = True
        if self._config.resolution is not None:
            patch = getattr(self.model.config, "patch_size", 1)
            if self._config.resolution % patch:
                raise ModelError(
                    f"resolution {self._config.resolution} is not a multiple of the patch size {patch} of "
                    f"{self._config.model}",
                    f"set resolution to a multiple of {patch}",
                )
            if "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters:
                options["interpolate_pos_encoding"] = True
        return options

    def _forward(self, frames: torch.Tensor) -> torch.Tensor:
        pixels = self.preparer.preprocessing.normalise(frames)  # (B, 3, H, W)
        out = self.model(pixel_values=pixels, **self._options)
        pooled = getattr(out, "pooler_output", None)
        if self._pool in {"pooler", "projection", "pooler_if_any"} and pooled is not None:
            row: torch.Tensor = pooled if self._projection is None else self._projection(pooled)
            return row.flatten(1)  # (B, D); convolutional models return 1 x 1 maps
        if self._pool in {"pooler", "projection"}:
            raise ModelError(f"model {self._config.model} has no pooler", "set token_pool to cls or mean")
        tokens = select_layers(out, self._config.layers)  # (B, N, D)
        return self._pool_tokens(tokens, pixels.shape[-2], pixels.shape[-1])

    def _pool_tokens(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Pool tokens, class and register tokens first, (B, N, D), to rows (B, D)."""
        if self._pool == "pooler_if_any" or (self._pool == "first" and tokens.ndim != 3):
            return tokens[:, 0].flatten(1)
        patch = getattr(self.model.config, "patch_size", None)
        n_extra = None if not isinstance(patch, int) else tokens.shape[1] - (height // patch) * (width // patch)
        if n_extra is None or n_extra < 0:
            if self._pool == "first":
                return tokens[:, 0]
            raise ModelError(
                f"the number of tokens of {self._config.model} does not match its patches", "set token_pool to auto"
            )
        if self._pool == "cls" and not n_extra:
            raise ModelError(f"model {self._config.model} has no class token", "set token_pool to mean or pooler")
        if self._pool == "mean" or not n_extra:
            return tokens[:, n_extra:].mean(dim=1)
        return tokens[:, 0]

    def _probe(self, name: str) -> int:
        """Return the width of a row; check that the model accepts the pictures of its own processor."""
        try:
            prepared = self.preparer.prepare(np.zeros((1, 64, 64, 3), np.uint8))
            return int(self.inference.rows_of_clips([prepared], self._forward)[0].shape[1])
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise ModelError(
                f"model {name} cannot encode single pictures ({error})", "choose an image model"
            ) from error


@dataclass(frozen=True, slots=True)
class PreparedVideo:
    """Network input for one clip.

    Attributes:
        pictures: uint8 (N, 3, S, S); N is the number of pictures that the model takes.
        chosen: Index of each picture in the view, (N,).
    """

    pictures: NDArray[np.uint8]
    chosen: NDArray[np.int64]


class VideoPreparer(Preparer[Any]):
    """Preprocessing of videos: an even choice of pictures, and resizing.

    Attributes:
        preprocessing: Sizes and value range.
        count: Number of pictures that the model takes.
    """

    def __init__(self, preprocessing: Preprocessing, count: int) -> None:
        self.preprocessing = preprocessing
        self.count = count

    def describe(self) -> dict[str, Any]:
        """Return the preprocessing and the number of pictures."""
        return {**self.preprocessing.to_dict(), "pictures": self.count}

    def prepare(self, view: Any) -> PreparedVideo:
        """Return the middle picture of each of ``count`` equal parts; a clip with fewer pictures repeats some."""
        pictures = view_pictures(view)
        chosen = ((np.arange(self.count) + 0.5) * len(pictures) / self.count).astype(np.int64)
        distinct, inverse = np.unique(chosen, return_inverse=True)
        resized = self.preprocessing.resize_pictures(pictures[distinct]).numpy()
        return PreparedVideo(np.ascontiguousarray(resized[inverse]), chosen)


def build_video_preparer(config: VideoConfig) -> VideoPreparer:
    """Build the preprocessing of a VideoMAE model.

    Raises:
        ModelError: If the model is not a VideoMAE.
    """
    source = config.source()
    model_config = load_pretrained(source, AutoConfig.from_pretrained)
    if model_config.model_type != "videomae":
        raise ModelError(
            f"model {source.name} is of type {model_config.model_type}, not videomae", "set type to transformers_vision"
        )
    return VideoPreparer(load_preprocessing(source), int(model_config.num_frames))


class VideoEncoder(Encoder[Any]):
    """A frozen VideoMAE: one row for each clip or each tubelet (two frames), the mean of its tokens.

    A fine-tuned checkpoint applies a norm to that mean (``fc_norm``), which is then part of the row.
    """

    preparer: VideoPreparer
    inference: Inference

    def __init__(self, config: VideoConfig, device: str = "auto") -> None:
        self._config = config
        self.is_clip_level = config.rows == "clip"
        self.settings = config.settings()
        self.inference = build_inference(config, device)
        source = config.source()
        self.preparer = build_video_preparer(config)
        model, self._norm = _load_video(source)
        check_layers(source, model, config.layers)
        self.model: Any = self.inference.place(model)
        if self._norm is not None:
            self.inference.place(self._norm)

    @property
    def dim(self) -> int:
        """D, the hidden size of the model."""
        return int(self.model.config.hidden_size)

    def encode_prepared(self, prepared: Sequence[PreparedVideo]) -> list[Encoding]:
        """Encode clips: (1, D) or (tubelets, D) for each clip.

        ``kept`` contains the first frame of each tubelet, or the middle frame of a whole clip.
        """
        rows = self.inference.rows_of_clips([video.pictures[None] for video in prepared], self._forward)
        return [
            Encoding(clip_rows.reshape(-1, self.dim), self._kept(video.chosen))
            for clip_rows, video in zip(rows, prepared, strict=True)
        ]

    def _kept(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._config.rows == "clip":
            return chosen[len(chosen) // 2 :][:1]
        return chosen[:: self.model.config.tubelet_size]

    def _forward(self, videos: torch.Tensor) -> torch.Tensor:
        """Map videos, uint8 (B, N, 3, S, S), to concatenated rows, (B, rows * D)."""
        pixels = self.preparer.preprocessing.normalise(videos.flatten(0, 1)).view(videos.shape)
        uses_last = self._config.layers == "last"
        out = self.model(pixel_values=pixels, output_hidden_states=not uses_last)
        tokens = select_layers(out, self._config.layers)  # (B, P, D)
        rows = 1 if self._config.rows == "clip" else videos.shape[1] // self.model.config.tubelet_size
        means = tokens.reshape(len(tokens), rows, -1, self.dim).mean(dim=2)  # (B, rows, D)
        if self._norm is not None and uses_last:
            means = self._norm(means)
        return means.flatten(1)


def _load_video(source: ModelSource) -> tuple[Any, nn.Module | None]:
    """Load the model, and the norm that a fine-tuned checkpoint applies to the mean of its tokens."""
    config = load_pretrained(source, AutoConfig.from_pretrained)
    if "VideoMAEForVideoClassification" not in (config.architectures or ()):
        return load_model(source, AutoModel)[0], None
    model, _ = load_model(source, AutoModelForVideoClassification)
    return model.videomae, model.fc_norm
