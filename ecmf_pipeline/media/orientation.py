"""Which way up the pictures of a film are.

Phones store what the sensor sees and write beside it how to turn it: a display matrix (ISO 14496-12, 8.3.2; HEVC and
H.264 have messages of the same meaning). Players obey it, and so must whoever looks for faces.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored pictures become upright.

    Attributes:
        turns: Quarter turns clockwise, after mirroring.
        mirrored: Whether they are turned over, top to bottom, before.
    """

    turns: int = 0
    mirrored: bool = False

    @property
    def is_upright(self) -> bool:
        """Whether pictures are stored as they are shown."""
        return not self.turns and not self.mirrored

    def turned(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a stored picture, (H, W, 3), upright: a view of it, (H, W, 3) or (W, H, 3)."""
        return np.rot90(picture[::-1] if self.mirrored else picture, -self.turns)


def orientation_of(frame: Any) -> Orientation:
    """What a decoded PyAV frame's display matrix says, to the nearest quarter turn."""
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])  # x' = a x + c y, y' = b x + d y; y points down
    return Orientation(turns=round(math.degrees(math.atan2(b, a)) / 90) % 4, mirrored=a * d - b * c < 0)
