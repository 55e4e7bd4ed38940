"""Decode pictures, and make of them what players show: upright, deinterlaced, with square pixels."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import TooManyPictures, UnreadableMedia

_MAX_DECODED_BYTES = 2**30
"""Maximum size of the decoded frames of one clip."""

_MAX_PIXEL_ASPECT = 8.0
"""Pixels that are declared even less square are taken as square: no camera has them."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """Transformation that makes stored pictures upright.

    Attributes:
        turns: Quarter turns clockwise, after mirroring.
        mirrored: Whether pictures are flipped top to bottom first.
    """

    turns: int = 0
    mirrored: bool = False

    def turned(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a stored picture, (H, W, 3), upright: a view of it, (H, W, 3) or (W, H, 3)."""
        return np.rot90(picture[::-1] if self.mirrored else picture, -self.turns)


def read_orientation(frame: Any) -> Orientation:
    """Return the orientation in the display matrix of a decoded PyAV frame, to the nearest quarter turn."""
    from av.sidedata.sidedata import SideDataContainer, Type

    try:
        # Not `frame.side_data`: it makes a reference cycle, which keeps the frame and its decoder in memory.
        data = SideDataContainer(frame).get(Type.DISPLAYMATRIX)  # type: ignore[call-arg]  # missing in its stub
    except ValueError:  # PyAV has no name for another side data of the frame; it still returns the rotation
        return Orientation(turns=round(-frame.rotation / 90) % 4)
    if data is None:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])  # x' = a x + c y, y' = b x + d y; y points down
    return Orientation(turns=round(math.degrees(math.atan2(b, a)) / 90) % 4, mirrored=a * d - b * c < 0)


class PictureBuffer:
    """The sampled pictures of a decoded stream.

    Attributes:
        is_damaged: Whether the decoder reported an error since the last key picture.
    """

    def __init__(self, size: tuple[int, int], capacity: int) -> None:
        self._size = size
        self._orientation: Orientation | None = None
        self.is_damaged = False
        self.restart(capacity)

    def restart(self, capacity: int) -> None:
        """Expect other pictures of the same decoder, whose state is kept; stored pictures are removed."""
        needed = 3 * self._size[0] * self._size[1] * capacity
        if needed > _MAX_DECODED_BYTES:
            raise TooManyPictures(
                f"{capacity} frames of {self._size[0]} x {self._size[1]} need {needed / 2**30:.1f} GB, the limit is "
                f"{_MAX_DECODED_BYTES / 2**30:.0f} GB: reduce frames or media.max_side"
            )
        self._capacity = capacity
        self._pictures: NDArray[np.uint8] | None = None
        self._first_damaged: float | None = None  # time of the first sampled picture that is damaged
        self._count = 0

    @property
    def is_full(self) -> bool:
        """Whether all sampled pictures are stored."""
        return self._count == self._capacity

    def add_frame(self, decoded: Any, shown: Any, *, is_sampled: bool) -> None:
        """Record whether a picture is damaged, and store it if it is sampled.

        Args:
            decoded: The decoded frame.
            shown: The frame that players show for it.
            is_sampled: Whether to store it.
        """
        if self._orientation is None:
            self._orientation = read_orientation(decoded)
        if decoded.is_corrupt:
            self.is_damaged = True
        elif decoded.key_frame:  # later pictures do not reference earlier, damaged ones
            self.is_damaged = False
        if not is_sampled:
            return
        if self.is_damaged and self._first_damaged is None:
            self._first_damaged = decoded.time or 0.0
        upright = self._orientation.turned(_to_rgb(shown, self._size))
        if self._pictures is None:
            self._pictures = np.empty((self._capacity, *upright.shape), np.uint8)
        self._pictures[self._count] = upright
        self._count += 1

    def pictures(self) -> NDArray[np.uint8]:
        """Return all stored pictures, (k, H, W, 3).

        Raises:
            UnreadableMedia: If one of them is damaged or missing.
        """
        if self._first_damaged is not None:
            raise UnreadableMedia(f"damaged frame at {self._first_damaged:.2f} s")
        if self._pictures is None or not self.is_full:
            raise UnreadableMedia(f"only {self._count} of {self._capacity} sampled frames can be decoded")
        return self._pictures


def decode(
    context: Any, packets: Iterable[Any], buffer: PictureBuffer, sampled: Container[int] | None
) -> Iterator[Any]:
    """Yield the decoded frames of packets; errors of the decoder are noted in ``buffer``.

    Args:
        context: The decoder.
        packets: The packets, with the empty one at the end of the stream.
        buffer: Collects the frames.
        sampled: Times of the sampled frames: others are decoded only if these reference them. None: decode all.
    """
    import av

    for packet in packets:
        is_skippable = sampled is not None and packet.size > 0 and packet.pts not in sampled
        context.skip_frame = "NONREF" if is_skippable else "DEFAULT"
        try:
            frames = context.decode(packet)  # the last packet is empty and flushes the decoder
        except av.InvalidDataError:
            buffer.is_damaged = True
            continue
        yield from frames


def deinterlaced(frames: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield decoded frames, each with the frame that players show: both fields of an interlaced frame made one picture.

    Progressive frames are returned as they are.
    """
    for _, run in groupby(
        frames, key=lambda frame: (frame.width, frame.height, frame.format.name, frame.interlaced_frame)
    ):
        first = next(run)
        if not first.interlaced_frame:
            yield first, first
            yield from ((frame, frame) for frame in run)
            continue
        graph = _deinterlacer(first)
        waiting: deque[Any] = deque()
        for frame in chain([first], run):
            waiting.append(frame)
            graph.push(frame)
            yield from ((waiting.popleft(), shown) for shown in _pull(graph))
        graph.push(None)
        yield from ((waiting.popleft(), shown) for shown in _pull(graph))


def _deinterlacer(frame: Any) -> Any:
    import av.filter

    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    bwdif, sink = graph.add("bwdif", "mode=send_frame"), graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    return graph


def _pull(graph: Any) -> Iterator[Any]:
    """Yield the frames that a filter graph has finished."""
    import av

    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return


def _to_rgb(frame: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a view of a decoded picture as RGB, (H, W, 3), in one size: the size of video calls changes midway."""
    rgb = frame.reformat(*size, "rgb24", interpolation="BICUBIC", threads=1)
    plane = rgb.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: size[1], : 3 * size[0]].reshape(size[1], size[0], 3)


def shown_size(size: tuple[int, int], pixel_aspect: Fraction | None, max_side: int) -> tuple[int, int]:
    """Return the size in square pixels, scaled to a longer side of at most ``max_side``; a scaled size is even."""
    width, height = size
    aspect = float(pixel_aspect or 1)
    if 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT:
        width = max(1, round(width * aspect))
    factor = min(1.0, max_side / max(width, height))
    if factor == 1:
        return width, height
    return max(2, round(width * factor / 2) * 2), max(2, round(height * factor / 2) * 2)
