"""What every encoder is: a frozen function from one modality's view of a clip to features."""

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
    - face: a `faces.detector.FaceTrack`;
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


@dataclass(frozen=True, slots=True)
class PreparedTogether:
    """What the members' networks take of one clip.

    Attributes:
        parts: Of each member.
        has_items: Whether the view consists of pictures, one of which a row may lack.
    """

    parts: tuple[Prepared, ...]
    has_items: bool


class JoinedPreparer(Preparer[Any]):
    """Does what each member does before its network.

    Attributes:
        members: The members' own.
    """

    def __init__(self, members: Sequence[Preparer[Any]]) -> None:
        self.members = tuple(members)

    def described(self) -> dict[str, Any]:
        """What each member does."""
        return {"members": [member.described() for member in self.members]}

    def prepare(self, view: Any) -> PreparedTogether:
        """What each member makes of a clip; one that cannot be described by one member is not described at all.

        Raises:
            ClipError: When a member cannot describe it.
        """
        return PreparedTogether(tuple(member.prepare(view) for member in self.members), _has_items(view))

    def close(self) -> None:
        """Free what the members hold beside memory."""
        _close_all(self.members)


class JoinedEncoder(Encoder[Any]):
    """One row where every member has one, as wide as all of theirs.

    Of pictures, those that every member describes have a row. A member that gives one row for the whole clip stands
    beside each row of the others. Rows of sound must be as many: members of different rates do not fit.

    Args:
        config: The members' params.
        members: The members, loaded, in the same order; `close` closes them.
    """

    def __init__(self, config: JoinedConfig, members: Sequence[Encoder[Any]]) -> None:
        self.settings = config.settings()
        self.members = tuple(members)
        self.preparer = JoinedPreparer([member.preparer for member in self.members])
        self.dtype = "float32" if any(member.dtype == "float32" for member in self.members) else "float16"

    @property
    def dim(self) -> int:
        """D, the sum of the members'."""
        return sum(member.dim for member in self.members)

    def encode_prepared(self, prepared: Sequence[PreparedTogether]) -> list[Encoding]:
        """Encode several clips by every member: (T, D) a clip; see `join`.

        Raises:
            ModelError: When members describe sound at different rates.
        """
        of_members = [
            member.encode_prepared([clip.parts[number] for clip in prepared])
            for number, member in enumerate(self.members)
        ]
        whole = [member.is_clip_level for member in self.members]
        return [
            join(encodings, whole, has_items=clip.has_items)
            for clip, encodings in zip(prepared, zip(*of_members, strict=True), strict=True)
        ]

    def close(self) -> None:
        """Free what the members and their preparers hold beside memory."""
        _close_all(self.members)


def join(encodings: Sequence[Encoding], clip_level: Sequence[bool], *, has_items: bool) -> Encoding:
    """Encodings of one clip side by side.

    Args:
        encodings: One a member, (T, D) each.
        clip_level: Which members give one row for the whole clip.
        has_items: Whether rows describe items of the view (pictures), so that members may describe different ones; if
            not, they must have as many rows.

    Returns:
        (T, sum of D); T = 0 where a member describes nothing.

    Raises:
        ModelError: When rows that cannot be told apart are not as many.
    """
    width = sum(encoding.values.shape[1] for encoding in encodings)
    if any(len(encoding.kept) == 0 for encoding in encodings):
        return Encoding.empty(width)
    by_row = [encoding.kept for encoding, whole in zip(encodings, clip_level, strict=True) if not whole]
    if not has_items and len({len(kept) for kept in by_row}) > 1:
        counts = " and ".join(str(len(kept)) for kept in by_row)
        raise ModelError(
            f"encoders that are joined give {counts} rows of one clip",
            "join encoders of one rate (frames_per_row can make rates alike), or use a single one",
        )
    kept: NDArray[np.int64] = reduce(np.intersect1d, by_row) if by_row else encodings[0].kept
    parts = [
        np.repeat(encoding.values, len(kept), axis=0) if whole else encoding.values[np.isin(encoding.kept, kept)]
        for encoding, whole in zip(encodings, clip_level, strict=True)
    ]
    return Encoding(np.concatenate(parts, axis=1), kept)


def _has_items(view: Any) -> bool:
    """Whether a view consists of pictures, one of which a row may lack; sound and text do not."""
    return not isinstance(view, ClipText) and not (isinstance(view, np.ndarray) and view.ndim == 1)


def _close_all(parts: Sequence[Encoder[Any] | Preparer[Any]]) -> None:
    """Close each, the others also where one fails."""
    with ExitStack() as exits:
        for part in parts:
            exits.callback(part.close)
