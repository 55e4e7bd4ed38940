"""What every encoder is: a frozen function from one modality's view of a clip to features."""

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
"""A view as the network takes it: NumPy arrays and small dataclasses of them, picklable."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """The features of one clip.

    Attributes:
        values: Features, (T, D).
        kept: For each row, which item of the view (frame or crop) it describes, (T,). Items that the encoder could not
            describe have no row: they are masked, never zeros.
    """

    values: NDArray[np.float32]
    kept: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != len(self.kept):
            raise ValueError(f"features {self.values.shape} do not match {len(self.kept)} kept items")

    @classmethod
    def empty(cls, dim: int) -> Encoding:
        """The encoding of a clip of which nothing could be described, (0, D)."""
        return cls(np.zeros((0, dim), np.float32), np.zeros(0, np.int64))


def pictures_of(view: NDArray[np.uint8] | FaceTrack) -> NDArray[np.uint8]:
    """The pictures that an encoder of either visual modality reads: frames, or a face track's crops, (T, H, W, 3)."""
    return view if isinstance(view, np.ndarray) else view.crops


class Preparer(ABC, Generic[View]):
    """What an encoder does before its network: runs where clips are decoded, which may be another process.

    It holds no weights of the network, and what it prepares is small: pictures at the network's size, say.
    """

    @abstractmethod
    def prepare(self, view: View) -> Prepared:
        """Bring one clip's view into the form that the network takes.

        Raises:
            ClipError: When the view cannot be described.
        """

    def described(self) -> dict[str, Any]:
        """What it does, for people to read, as plain JSON values."""
        return {}

    def close(self) -> None:
        """Free what it holds beside memory."""
        return


class Encoder(ABC, Generic[View]):
    """A frozen model in eval and inference mode, batched across clips.

    ``View`` is what the encoder reads of a clip:

    - global: RGB frames, uint8 (T, H, W, 3);
    - face: a `faces.FaceTrack`;
    - audio: mono samples at 16 kHz, float32 (n,);
    - text: a `ClipText`.

    Attributes:
        settings: All that changes the numbers, weights' hash included, as plain JSON values. Their hash is the
            fingerprint.
        preparer: What happens to a view before the network sees it.
        inference: Where and how the network runs; None where there is none.
    """

    dtype: str = "float16"
    """How the features are stored; float32 for those whose range float16 does not hold."""

    is_clip_level: bool = False
    """Whether it gives one row for a whole clip, whatever the clip's length."""

    settings: dict[str, Any]
    preparer: Preparer[View]
    inference: Inference | None = None

    @property
    @abstractmethod
    def dim(self) -> int:
        """D, the width of a feature row."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What the loaded model tells of where its features come from, for people to read, as plain JSON values.

        Its weights, what happens to its input, the precision and the kind of device it computes on. No part of the
        fingerprint.
        """
        return {
            "weights": self.settings["weights"],
            "preprocessing": self.preparer.described(),
            "precision": self.settings.get("precision", "fp32"),
            "device": "cpu" if self.inference is None else self.inference.device.type,
        }

    @abstractmethod
    def encode_prepared(self, prepared: Sequence[Prepared]) -> list[Encoding]:
        """Encode several clips at once.

        Args:
            prepared: What the preparer made of one view a clip; every view has at least one item.

        Returns:
            One encoding a clip, in the same order. An encoding with T = 0 means that nothing in the clip could be
            described.

        Raises:
            MemoryError: When memory runs out even for a single item.
        """

    def encode(self, views: Sequence[View]) -> list[Encoding]:
        """Prepare and encode the views of several clips; see `encode_prepared`."""
        return self.encode_prepared([self.preparer.prepare(view) for view in views])

    def close(self) -> None:
        """Free what the encoder holds beside memory, its preparer included."""
        self.preparer.close()
