"""What encoders of single pictures share: frames of several clips, prepared, batched and split again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ecmf_pipeline.encoders.base import Encoder, Encoding, pictures_of
from ecmf_pipeline.encoders.inference import rows_of_clips
from ecmf_pipeline.encoders.preprocess import Preprocessing


class PictureEncoder(Encoder[Any]):
    """An encoder that gives one row a frame, or a crop of a face track.

    Attributes:
        preprocessing: From uint8 pictures to what the model takes.
        batch_size: Pictures in one forward pass.
    """

    preprocessing: Preprocessing
    batch_size: int

    def preprocessing_values(self) -> dict[str, Any]:
        """How pictures become the model's input."""
        values = asdict(self.preprocessing)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @torch.inference_mode()
    def encode(self, views: Sequence[Any]) -> list[Encoding]:
        """Encode frames (or the crops of face tracks): (T, D) a clip."""
        frames = [self.preprocessing.resized(pictures_of(view)) for view in views]
        rows = rows_of_clips(frames, self._forward, self.batch_size)
        return [Encoding(own, np.arange(len(own))) for own in rows]

    @abstractmethod
    def _forward(self, frames: torch.Tensor) -> torch.Tensor:
        """From resized pictures, uint8 (B, 3, S, S), to rows (B, D)."""
