"""Read pictures by PyAV: one pass through the file serves its times, its orientation and its pictures.

Of H.264, pictures that no other builds upon and nobody asked for are not decoded (`nal_ref_idc` is 0 for them, ITU-T
H.264, 7.4.1): with the usual encoders these are half of all. The pictures that are asked for stay the same, bit by bit.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import NoVideoStream, UnreadableMedia
from ecmf_pipeline.media.containers import moving_pictures, open_container, pictures_stream

if TYPE_CHECKING:
    from av.container import InputContainer


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


_MOST_KEPT = 64 * 2**20
"""Bytes of a film's packets that are kept from the first pass; of a longer film, the file is read once more."""

_EIGHT_BITS = {"yuv420p", "yuvj420p"}
_PROGRESSIVE = 1  # AV_FIELD_PROGRESSIVE
ROUNDING = 1e-3
"""Seconds by which a picture's time may be off."""


class PyAvVideo:
    """The first stream of moving pictures of an open container.

    Args:
        path: The file.
        container: The file, opened, at its start; it must stay open while this is used.
        max_side: Longer pictures are scaled down to this many pixels.

    Attributes:
        seconds: Declared length of the pictures, 0 where the container does not say.
        stored_size: Width and height as they are stored, in pixels.
        size: The same, scaled down.
        is_only: Whether there is one stream of moving pictures.

    Raises:
        NoVideoStream: When there is none.
        UnreadableMedia: When its pictures have no size.
    """

    def __init__(self, path: Path, container: InputContainer, max_side: int) -> None:
        stream = pictures_stream(container)
        if stream is None:
            raise NoVideoStream("the file has no video stream")
        self._path = path
        self._base = float(stream.time_base)
        self._context: Any = _single_threaded(stream)
        self._demuxing: Iterator[Any] = container.demux(stream)
        self._packets: list[Any] = []  # those read so far
        self._is_kept = True  # whether all of them are
        self._is_simple = False  # whether pictures can be told by their times, and some be left out
        self.seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        self.is_only = len(moving_pictures(container)) == 1
        self.stored_size = (self._context.width, self._context.height)
        if not all(self.stored_size):
            raise UnreadableMedia("the video stream has no size")
        self.size = _scaled(self.stored_size, max_side)

    @cached_property
    def orientation(self) -> Orientation:
        """How stored pictures are turned upright: PyAV tells of a display matrix with decoded pictures only.

        Upright where the first key picture cannot be decoded: what that means shows when pictures are read.
        """
        import av

        packet = self._first_key_packet()
        if packet is None:
            return Orientation()
        try:
            pictures = self._context.decode(packet) or self._context.decode(None)
        except av.FFmpegError:
            pictures = []
        self._context.flush_buffers()
        return orientation_of(pictures[0]) if pictures else Orientation()

    @cached_property
    def _shown(self) -> list[tuple[int, int]]:
        """Time and length of every picture that is shown, in units of the stream, in order of time; reads the file."""
        self._packets.extend(self._demuxing)
        shown = [packet for packet in self._packets if packet.pts is not None and not packet.is_discard]
        times = sorted((packet.pts, packet.duration or 0) for packet in shown)
        self._is_simple = (
            self._context.name == "h264"
            and len(shown) == sum(packet.size > 0 for packet in self._packets)
            and len(dict(times)) == len(times)
        )
        self._is_kept = sum(packet.size for packet in self._packets) <= _MOST_KEPT
        if not self._is_kept:
            self._packets.clear()
        return times

    @cached_property
    def spans(self) -> NDArray[np.float64]:
        """Start and end of every picture in seconds, in order of time, (n, 2)."""
        spans = [(pts * self._base, pts * self._base + length * self._base) for pts, length in self._shown]
        return np.array(spans, np.float64).reshape(-1, 2)

    @property
    def is_plain(self) -> bool:
        """Whether decord would give exactly the same pictures at the same times.

        That is measured for progressive 8-bit 4:2:0 H.264 that is not scaled, of which nothing is hidden, and all times
        are known.
        """
        spans = self.spans
        return (
            self._is_simple
            and self._context.pix_fmt in _EIGHT_BITS
            and self._context.field_order == _PROGRESSIVE
            and self.size == self.stored_size
            and len(spans) > 0
            and bool(spans[0, 0] >= -ROUNDING)
        )

    def pictures(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """RGB pictures at increasing indices, (k, H, W, 3)."""
        times = [self._shown[index][0] for index in indices]
        found = self._pictures_at(times) if self._is_simple else None
        return self._pictures_in_order(indices) if found is None else found

    def _pictures_at(self, times: Sequence[int]) -> NDArray[np.uint8] | None:
        """The pictures of some times, decoding others only as far as these need them; None when one does not come."""
        wanted = set(times)
        taken = _Taken(self.size, len(wanted))
        for frame in self._decoded(wanted):
            taken.look_at(frame, wanted=frame.pts in wanted)
            if taken.is_full:
                return taken.pictures()
        return None

    def _pictures_in_order(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """The pictures at some places in the order in which they come out."""
        wanted = set(indices)
        taken = _Taken(self.size, len(wanted))
        for index, frame in enumerate(self._decoded()):
            taken.look_at(frame, wanted=index in wanted)
            if taken.is_full:
                break
        if not taken.is_full:
            # A few streams hold one packet more than pictures; a repeat of the last one is what players show.
            if taken.count == 0 or len(wanted) - taken.count > 1:
                raise UnreadableMedia(f"PyAV: only {taken.count} of {len(wanted)} sampled pictures can be decoded")
            taken.repeat()
        return taken.pictures()

    def _decoded(self, wanted: set[int] | None = None) -> Iterator[Any]:
        """The film's decoded pictures from its start; with the times of those wanted, some others are left out."""
        if self._is_kept:
            self._context.flush_buffers()
            yield from _decode(self._context, self._packets, wanted)
            return
        with open_container(self._path) as container:
            stream = pictures_stream(container)
            yield from _decode(_single_threaded(stream), container.demux(stream), wanted)

    def _first_key_packet(self) -> Any | None:
        for packet in self._packets:
            if packet.is_keyframe and packet.size:
                return packet
        for packet in self._demuxing:
            self._packets.append(packet)
            if packet.is_keyframe and packet.size:
                return packet
        return None


class _Taken:
    """Pictures as they are taken out of a stream of decoded ones, and whether they can be trusted."""

    def __init__(self, size: tuple[int, int], most: int) -> None:
        self._size = size
        self._most = most
        self._pictures: NDArray[np.uint8] | None = None
        self._orientation: Orientation | None = None
        self._damaged_at: float | None = None
        self.count = 0

    @property
    def is_full(self) -> bool:
        return self.count == self._most

    def look_at(self, frame: Any, *, wanted: bool) -> None:
        """Note whether a picture is damaged, and take it if it is wanted."""
        if self._orientation is None:
            self._orientation = orientation_of(frame)
        if frame.is_corrupt:
            self._damaged_at = frame.time or 0.0
        elif frame.key_frame:  # what follows no longer builds upon damage before it
            self._damaged_at = None
        if not wanted:
            return
        if self._damaged_at is not None:
            raise UnreadableMedia(f"the pictures are damaged: the one at {self._damaged_at:.2f} s cannot be decoded")
        upright = self._orientation.turned(_rgb(frame, self._size))
        if self._pictures is None:
            self._pictures = np.empty((self._most, *upright.shape), np.uint8)
        self._pictures[self.count] = upright
        self.count += 1

    def repeat(self) -> None:
        """Take the last picture once more."""
        if self._pictures is not None:
            self._pictures[self.count] = self._pictures[self.count - 1]
            self.count += 1

    def pictures(self) -> NDArray[np.uint8]:
        """All of them, (k, H, W, 3)."""
        if self._pictures is None:
            raise UnreadableMedia("PyAV: no picture can be decoded")
        return self._pictures


def _decode(context: Any, packets: Iterator[Any] | list[Any], wanted: set[int] | None) -> Iterator[Any]:
    for packet in packets:
        skips = wanted is not None and packet.size > 0 and packet.pts not in wanted
        context.skip_frame = "NONREF" if skips else "DEFAULT"
        yield from context.decode(packet)  # the last packet is empty, and brings out what the decoder still holds


def _rgb(frame: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A view of a decoded picture as RGB, (H, W, 3), of one size: streams of video calls change theirs midway."""
    rgb = frame.reformat(*size, "rgb24", interpolation="BICUBIC", threads=1)
    plane = rgb.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: size[1], : 3 * size[0]].reshape(size[1], size[0], 3)


def _single_threaded(stream: Any) -> Any:
    """A stream's decoder; the cores have other clips to read."""
    stream.codec_context.thread_count = 1
    return stream.codec_context


def _scaled(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """A size whose longer side is at most so long, and even where it has to be made shorter."""
    shrink = min(1.0, max_side / max(size))
    if shrink == 1:
        return size
    width, height = (max(2, round(side * shrink / 2) * 2) for side in size)
    return width, height
