"""What encoders of single pictures share: frames of several clips, prepared, batched and split again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer, pictures_of
from ecmf_pipeline.encoders.inference import Inference
from ecmf_pipeline.encoders.preprocess import Preprocessing


class PicturePreparer(Preparer[Any]):
    """Resizes and crops frames, or the crops of a face track.

    Attributes:
        preprocessing: How.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def described(self) -> dict[str, Any]:
        """How pictures become the network's input."""
        return self.preprocessing.values()

    def prepare(self, view: Any) -> NDArray[np.uint8]:
        """Pictures of the network's size, uint8 (T, 3, S, S)."""
        prepared: NDArray[np.uint8] = self.preprocessing.resized(pictures_of(view)).numpy()
        return np.ascontiguousarray(prepared)


class PictureEncoder(Encoder[Any]):
    """An encoder that gives one row a frame, or a crop of a face track.

    Attributes:
        preparer: From pictures of any size to those that the network takes.
        inference: Where and how the network runs.
    """

    preparer: PicturePreparer
    inference: Inference

    def encode_prepared(self, prepared: Sequence[NDArray[np.uint8]]) -> list[Encoding]:
        """Encode prepared frames (or the crops of face tracks): (T, D) a clip."""
        rows = self.inference.rows_of_clips(prepared, self._forward)
        return [Encoding(own, np.arange(len(own))) for own in rows]

    @abstractmethod
    def _forward(self, frames: torch.Tensor) -> torch.Tensor:
        """From prepared pictures on the device, uint8 (B, 3, S, S), to rows (B, D)."""
