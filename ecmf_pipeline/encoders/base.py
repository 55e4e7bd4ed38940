"""Base classes of encoders, and the encoder that concatenates the features of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import ClipText
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.config import JoinedConfig

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


@dataclass(frozen=True, slots=True)
class JoinedInputs:
    """Network inputs of all members for one clip.

    Attributes:
        parts: The input of each member.
        has_pictures: Whether the view consists of pictures, some of which may have no row.
    """

    parts: tuple[Prepared, ...]
    has_pictures: bool


class JoinedPreparer(Preparer[Any]):
    """Preprocessing of joined encoders: the preprocessing of each member.

    Attributes:
        members: The preparers of the members.
    """

    def __init__(self, members: Sequence[Preparer[Any]]) -> None:
        self.members = tuple(members)

    def describe(self) -> dict[str, Any]:
        """Return the settings of each member."""
        return {"members": [member.describe() for member in self.members]}

    def prepare(self, view: Any) -> JoinedInputs:
        """Prepare a clip for each member. If one member cannot encode the clip, it is not encoded at all.

        Raises:
            ClipError: If a member cannot encode the clip.
        """
        return JoinedInputs(tuple(member.prepare(view) for member in self.members), _has_pictures(view))

    def close(self) -> None:
        """Release native resources of all members."""
        _close_all(self.members)


class JoinedEncoder(Encoder[Any]):
    """An encoder that concatenates the rows of several encoders.

    A picture has a row if every member has one for it. The row of a clip-level member is repeated for each row of the
    others. Members for audio must return equally many rows, so their frame rates must match.

    Args:
        config: The params of the members.
        members: The loaded members, in the same order; `close` closes them.
    """

    def __init__(self, config: JoinedConfig, members: Sequence[Encoder[Any]]) -> None:
        self.settings = config.settings()
        self.members = tuple(members)
        self.preparer = JoinedPreparer([member.preparer for member in self.members])
        self.dtype = "float32" if any(member.dtype == "float32" for member in self.members) else "float16"

    @property
    def dim(self) -> int:
        """D, the sum of the widths of the members."""
        return sum(member.dim for member in self.members)

    @property
    def column_names(self) -> list[str]:
        """The names of the columns of each member."""
        return [name for member in self.members for name in member.column_names]

    def encode_prepared(self, prepared: Sequence[JoinedInputs]) -> list[Encoding]:
        """Encode several clips with every member: (T, D) for each clip; see `join_encodings`.

        Raises:
            ModelError: If members encode audio at different rates.
        """
        member_encodings = [
            member.encode_prepared([clip.parts[number] for clip in prepared])
            for number, member in enumerate(self.members)
        ]
        are_clip_level = [member.is_clip_level for member in self.members]
        return [
            join_encodings(encodings, are_clip_level, has_pictures=clip.has_pictures)
            for clip, encodings in zip(prepared, zip(*member_encodings, strict=True), strict=True)
        ]

    def close(self) -> None:
        """Release native resources of the members and their preparers."""
        _close_all(self.members)


def join_encodings(encodings: Sequence[Encoding], clip_level: Sequence[bool], *, has_pictures: bool) -> Encoding:
    """Concatenate the encodings of one clip along the feature axis.

    Args:
        encodings: One for each member, (T, D) each.
        clip_level: For each member, whether it returns one row for the whole clip.
        has_pictures: Whether rows describe pictures. If so, members may have rows for different pictures; if not, they
            must have equally many rows.

    Returns:
        (T, sum of D); T = 0 if a member has no row.

    Raises:
        ModelError: If the numbers of rows differ and rows do not describe pictures.
    """
    width = sum(encoding.values.shape[1] for encoding in encodings)
    if any(len(encoding.kept) == 0 for encoding in encodings):
        return Encoding.empty(width)
    kept_of_members = [
        encoding.kept for encoding, is_clip_level in zip(encodings, clip_level, strict=True) if not is_clip_level
    ]
    if not has_pictures and len({len(kept) for kept in kept_of_members}) > 1:
        counts = " and ".join(str(len(kept)) for kept in kept_of_members)
        raise ModelError(
            f"joined encoders return {counts} rows for one clip",
            "join encoders of the same rate (frames_per_row changes it), or use a single encoder",
        )
    kept: NDArray[np.int64] = reduce(np.intersect1d, kept_of_members) if kept_of_members else encodings[0].kept
    parts = [
        np.repeat(encoding.values, len(kept), axis=0)
        if is_clip_level
        else encoding.values[np.isin(encoding.kept, kept)]
        for encoding, is_clip_level in zip(encodings, clip_level, strict=True)
    ]
    return Encoding(np.concatenate(parts, axis=1), kept)


def _has_pictures(view: Any) -> bool:
    """Return whether a view consists of pictures, some of which may have no row."""
    return not isinstance(view, ClipText) and not (isinstance(view, np.ndarray) and view.ndim == 1)


def _close_all(parts: Sequence[Encoder[Any] | Preparer[Any]]) -> None:
    """Close all, even if one fails."""
    with ExitStack() as exits:
        for part in parts:
            exits.callback(part.close)
