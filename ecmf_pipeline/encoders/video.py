"""VideoMAE as an encoder of a clip's frames or face crops, seen together (arXiv 2203.12602)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification

from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer, pictures_of
from ecmf_pipeline.encoders.config import VideoConfig
from ecmf_pipeline.encoders.image_processors import load_preprocessing
from ecmf_pipeline.encoders.inference import Inference, RunPrecision
from ecmf_pipeline.encoders.preprocess import Preprocessing
from ecmf_pipeline.encoders.pretrained import check_layers, combine_layers, load_model, load_part
from ecmf_pipeline.encoders.weights import ModelSource
from ecmf_pipeline.errors import ModelError


@dataclass(frozen=True, slots=True)
class PreparedVideo:
    """What the model sees of a clip.

    Attributes:
        pictures: uint8 (N, 3, S, S), N being what the model takes.
        chosen: Which item of the view each is, (N,).
    """

    pictures: NDArray[np.uint8]
    chosen: NDArray[np.int64]


class VideoPreparer(Preparer[Any]):
    """Chooses pictures evenly, and resizes them.

    Attributes:
        preprocessing: How they are resized.
        count: How many the model takes.
    """

    def __init__(self, preprocessing: Preprocessing, count: int) -> None:
        self.preprocessing = preprocessing
        self.count = count

    def described(self) -> dict[str, Any]:
        """How pictures become the network's input, and how many it sees."""
        return {**self.preprocessing.values(), "pictures": self.count}

    def prepare(self, view: Any) -> PreparedVideo:
        """The clip's pictures, each the middle one of an equal share; of fewer than the model takes, some twice."""
        pictures = pictures_of(view)
        chosen = ((np.arange(self.count) + 0.5) * len(pictures) / self.count).astype(np.int64)
        distinct, places = np.unique(chosen, return_inverse=True)
        resized = self.preprocessing.resized(pictures[distinct]).numpy()
        return PreparedVideo(np.ascontiguousarray(resized[places]), chosen)


def video_preparer(source: ModelSource) -> VideoPreparer:
    """What comes before the network of a VideoMAE model.

    Raises:
        ModelError: When it is none.
    """
    config = load_part(source, AutoConfig.from_pretrained)
    if config.model_type != "videomae":
        raise ModelError(f"{source.name} is {config.model_type}, not VideoMAE", "describe it by transformers_vision")
    return VideoPreparer(load_preprocessing(source), int(config.num_frames))


class VideoEncoder(Encoder[Any]):
    """A frozen VideoMAE: a row a clip, or a row a tubelet (two frames), each the mean of its tokens.

    A checkpoint that was fine-tuned has a norm after that mean (``fc_norm``), which is then part of the row.
    """

    preparer: VideoPreparer
    inference: Inference

    def __init__(self, config: VideoConfig, device: str = "auto") -> None:
        self._config = config
        self.is_clip_level = config.rows == "clip"
        self._settings = config.settings()
        self.inference = Inference(device, config.batch_size, cast("RunPrecision", config.resolved(device).precision))
        source = config.source()
        self.preparer = video_preparer(source)
        model, self._norm = _load(source)
        check_layers(source, model, config.layers)
        self.model: Any = self.inference.place(model)
        if self._norm is not None:
            self.inference.place(self._norm)

    @property
    def dim(self) -> int:
        """D, the model's hidden size."""
        return int(self.model.config.hidden_size)

    @property
    def settings(self) -> dict[str, Any]:
        """See `VideoConfig.settings`."""
        return self._settings

    def encode_prepared(self, prepared: Sequence[PreparedVideo]) -> list[Encoding]:
        """Encode clips: (1, D) each, or (tubelets, D).

        ``kept`` names the first frame of each tubelet; for a clip as a whole, the one in its middle.
        """
        rows = self.inference.rows_of_clips([video.pictures[None] for video in prepared], self._forward)
        return [
            Encoding(own.reshape(-1, self.dim), self._kept(video.chosen))
            for own, video in zip(rows, prepared, strict=True)
        ]

    def _kept(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._config.rows == "clip":
            return chosen[len(chosen) // 2 :][:1]
        return chosen[:: self.model.config.tubelet_size]

    def _forward(self, videos: torch.Tensor) -> torch.Tensor:
        """From uint8 (B, N, 3, S, S) to rows side by side, (B, rows * D)."""
        pixels = self.preparer.preprocessing.normalised(videos.flatten(0, 1)).view(videos.shape)
        last = self._config.layers == "last"
        out = self.model(pixel_values=pixels, output_hidden_states=not last)
        tokens = out.last_hidden_state if last else combine_layers(out.hidden_states, self._config.layers)  # (B, P, D)
        rows = 1 if self._config.rows == "clip" else videos.shape[1] // self.model.config.tubelet_size
        means: torch.Tensor = tokens.unflatten(1, (rows, -1)).mean(
            dim=2
        )  # (B, rows, D): tokens stand tubelet by tubelet
        if self._norm is not None and last:
            means = self._norm(means)
        return means.flatten(1)


def _load(source: ModelSource) -> tuple[Any, nn.Module | None]:
    """The model, and the norm that a fine-tuned checkpoint puts on the mean of its tokens."""
    config = load_part(source, AutoConfig.from_pretrained)
    if "VideoMAEForVideoClassification" not in (config.architectures or ()):
        return load_model(source, AutoModel)[0], None
    model, _ = load_model(source, AutoModelForVideoClassification)
    return model.videomae, model.fc_norm
