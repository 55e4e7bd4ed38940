"""Base classes of encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ecmf_pipeline.encoders.inference import Inference
    from ecmf_pipeline.faces.detector import FaceTrack

View = TypeVar("View")
Prepared = Any
"""Input of the network: NumPy arrays and small dataclasses of them, picklable."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """The features of one clip.

    Attributes:
        values: Features, (T, D).
        kept: Index of the frame or crop that each row describes, (T,). Frames and crops without features are masked:
            they have no row, and are never filled with zeros.
    """

    values: NDArray[np.float32]
    kept: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != len(self.kept):
            raise ValueError(f"features of shape {self.values.shape} do not match {len(self.kept)} kept indices")

    @classmethod
    def empty(cls, dim: int) -> Encoding:
        """Return an encoding without rows, (0, D)."""
        return cls(np.zeros((0, dim), np.float32), np.zeros(0, np.int64))


def view_pictures(view: NDArray[np.uint8] | FaceTrack) -> NDArray[np.uint8]:
    """Return the pictures of a view: the frames, or the crops of a face track, (T, H, W, 3)."""
    return view if isinstance(view, np.ndarray) else view.crops


class Preparer(ABC, Generic[View]):
    """Preprocessing of an encoder. It may run in another process, the one that decodes clips.

    It contains no weights of the network, and its output is small: for example, pictures at the input size of the
    network.
    """

    @abstractmethod
    def prepare(self, view: View) -> Prepared:
        """Convert the view of one clip to the input of the network.

        Raises:
            ClipError: If the view cannot be encoded.
        """

    def describe(self) -> dict[str, Any]:
        """Return its settings for provenance, as plain JSON values."""
        return {}

    def close(self) -> None:
        """Release native resources."""
        return


class Encoder(ABC, Generic[View]):
    """A frozen model in eval and inference mode. Batches span clips.

    ``View`` is the input for one clip:

    - global: RGB frames, uint8 (T, H, W, 3);
    - face: a `faces.detector.FaceTrack`;
    - audio: mono samples at 16 kHz, float32 (n,);
    - text: a `ClipText`.

    Attributes:
        settings: All settings that change the numbers, with the hashes of the weights, as plain JSON values. Their hash
            is the fingerprint.
        preparer: The preprocessing.
        inference: Device, precision and batches of the network; None if there is no network.
    """

    dtype: str = "float16"
    """Type in which the features are stored; float32 if they exceed the range of float16."""

    is_clip_level: bool = False
    """Whether it returns one row for each clip, independent of the length of the clip."""

    settings: dict[str, Any]
    preparer: Preparer[View]
    inference: Inference | None = None

    @property
    @abstractmethod
    def dim(self) -> int:
        """D, the width of a feature row."""

    @property
    def column_names(self) -> list[str]:
        """The name of each column, (D,); "" for a column without a name."""
        return [""] * self.dim

    @property
    def provenance(self) -> dict[str, Any]:
        """Origin of the features as known to the loaded model, for readers, as plain JSON values.

        Weights, preprocessing, precision and type of device. Not part of the fingerprint.
        """
        return {
            "weights": self.settings["weights"],
            "preprocessing": self.preparer.describe(),
            "precision": self.settings.get("precision", "fp32"),
            "device": "cpu" if self.inference is None else self.inference.device.type,
        }

    @abstractmethod
    def encode_prepared(self, prepared: Sequence[Prepared]) -> list[Encoding]:
        """Encode several clips at once.

        Args:
            prepared: Output of the preparer for each clip; every view has at least one frame or crop.

        Returns:
            One encoding for each clip, in the same order. T = 0 means that nothing in the clip could be encoded.

        Raises:
            MemoryError: If memory runs out with a batch of one.
        """

    def encode(self, views: Sequence[View]) -> list[Encoding]:
        """Prepare and encode the views of several clips; see `encode_prepared`."""
        return self.encode_prepared([self.preparer.prepare(view) for view in views])

    def close(self) -> None:
        """Release native resources of the encoder and its preparer."""
        self.preparer.close()
