"""Several encoders that serve one modality together: their rows side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import ClipText
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.base import Encoder, Encoding, Prepared, Preparer
from ecmf_pipeline.encoders.config import JoinedConfig


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
