"""Read pictures with PyAV: one pass through the file reads times, orientation and pictures.

In H.264, pictures that are not sampled and that no other picture references are not decoded (their `nal_ref_idc` is 0,
ITU-T H.264, 7.4.1): half of all pictures with the usual encoders. The sampled pictures stay bit-identical.
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
from ecmf_pipeline.media.containers import first_video_stream, open_container, video_streams

if TYPE_CHECKING:
    from av.container import InputContainer


@dataclass(frozen=True, slots=True)
class Orientation:
    """Transformation that makes stored pictures upright.

    Attributes:
        turns: Quarter turns clockwise, after mirroring.
        mirrored: Whether pictures are flipped top to bottom first.
    """

    turns: int = 0
    mirrored: bool = False

    @property
    def is_upright(self) -> bool:
        """Whether pictures are stored upright."""
        return not self.turns and not self.mirrored

    def turned(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a stored picture, (H, W, 3), upright: a view of it, (H, W, 3) or (W, H, 3)."""
        return np.rot90(picture[::-1] if self.mirrored else picture, -self.turns)


def read_orientation(frame: Any) -> Orientation:
    """Return the orientation in the display matrix of a decoded PyAV frame, to the nearest quarter turn."""
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])  # x' = a x + c y, y' = b x + d y; y points down
    return Orientation(turns=round(math.degrees(math.atan2(b, a)) / 90) % 4, mirrored=a * d - b * c < 0)


_MAX_KEPT_BYTES = 64 * 2**20
"""Maximum bytes of packets that are kept from the first pass; a longer file is read twice."""

_EIGHT_BIT_FORMATS = {"yuv420p", "yuvj420p"}
_PROGRESSIVE = 1  # AV_FIELD_PROGRESSIVE
TIME_ROUNDING = 1e-3
"""Tolerance of picture times in seconds."""


class PyAvVideo:
    """The first video stream of an open container.

    Args:
        path: The file.
        container: The opened file, at its start; it must stay open during use.
        max_side: Pictures with a longer side are scaled down to this number of pixels.

    Attributes:
        seconds: Declared length of the stream, 0 if unknown.
        stored_size: Stored width and height in pixels.
        size: Width and height after scaling down.
        is_only_stream: Whether there is only one video stream.

    Raises:
        NoVideoStream: If there is none.
        UnreadableMedia: If its pictures have no size.
    """

    def __init__(self, path: Path, container: InputContainer, max_side: int) -> None:
        stream = first_video_stream(container)
        if stream is None:
            raise NoVideoStream("the file has no video stream")
        self._path = path
        self._time_base = float(stream.time_base)
        self._context: Any = _single_threaded_decoder(stream)
        self._unread_packets: Iterator[Any] = container.demux(stream)
        self._packets: list[Any] = []  # the packets read so far
        self._keeps_packets = True  # whether `_packets` stays complete
        self._can_select_by_time = False  # otherwise all pictures are decoded
        self.seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        self.is_only_stream = len(video_streams(container)) == 1
        self.stored_size = (self._context.width, self._context.height)
        if not all(self.stored_size):
            raise UnreadableMedia("the video stream has no size")
        self.size = _scale_size(self.stored_size, max_side)

    @cached_property
    def orientation(self) -> Orientation:
        """Orientation of the stored pictures: PyAV returns a display matrix only with decoded pictures.

        Upright if the first key picture cannot be decoded; reading the pictures then raises the error.
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
        return read_orientation(pictures[0]) if pictures else Orientation()

    @cached_property
    def _shown_times(self) -> list[tuple[int, int]]:
        """Time and length of every picture that is shown, in time base units, in order of time; reads the file."""
        self._packets.extend(self._unread_packets)
        shown = [packet for packet in self._packets if packet.pts is not None and not packet.is_discard]
        times = sorted((packet.pts, packet.duration or 0) for packet in shown)
        self._can_select_by_time = (
            self._context.name == "h264"
            and len(shown) == sum(packet.size > 0 for packet in self._packets)
            and len(dict(times)) == len(times)
        )
        self._keeps_packets = sum(packet.size for packet in self._packets) <= _MAX_KEPT_BYTES
        if not self._keeps_packets:
            self._packets.clear()
        return times

    @cached_property
    def spans(self) -> NDArray[np.float64]:
        """Start and end of every picture in seconds, in order of time, (n, 2)."""
        spans = [
            (pts * self._time_base, pts * self._time_base + length * self._time_base)
            for pts, length in self._shown_times
        ]
        return np.array(spans, np.float64).reshape(-1, 2)

    @property
    def matches_decord(self) -> bool:
        """Whether decord returns exactly the same pictures at the same times.

        Measured for progressive 8-bit 4:2:0 H.264 without scaling and hidden pictures, in which all times are known.
        """
        spans = self.spans
        return (
            self._can_select_by_time
            and self._context.pix_fmt in _EIGHT_BIT_FORMATS
            and self._context.field_order == _PROGRESSIVE
            and self.size == self.stored_size
            and len(spans) > 0
            and bool(spans[0, 0] >= -TIME_ROUNDING)
        )

    def pictures(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return RGB pictures at increasing indices, (k, H, W, 3)."""
        times = [self._shown_times[index][0] for index in indices]
        pictures = self._pictures_at(times) if self._can_select_by_time else None
        return self._pictures_in_order(indices) if pictures is None else pictures

    def _pictures_at(self, times: Sequence[int]) -> NDArray[np.uint8] | None:
        """Return the pictures at given times, decoding others only if these reference them; None if one is missing."""
        sampled = set(times)
        buffer = _PictureBuffer(self.size, len(sampled))
        for frame in self._decoded(sampled):
            buffer.add_frame(frame, is_sampled=frame.pts in sampled)
            if buffer.is_full:
                return buffer.pictures()
        return None

    def _pictures_in_order(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return the pictures at given positions in decoding output order."""
        sampled = set(indices)
        buffer = _PictureBuffer(self.size, len(sampled))
        for index, frame in enumerate(self._decoded()):
            buffer.add_frame(frame, is_sampled=index in sampled)
            if buffer.is_full:
                break
        if not buffer.is_full:
            # A few streams have one packet more than pictures; like players, repeat the last picture.
            if buffer.count == 0 or len(sampled) - buffer.count > 1:
                raise UnreadableMedia(f"PyAV: only {buffer.count} of {len(sampled)} sampled frames can be decoded")
            buffer.repeat_last()
        return buffer.pictures()

    def _decoded(self, sampled: set[int] | None = None) -> Iterator[Any]:
        """Yield the decoded pictures from the start; ``sampled`` times allow others to be skipped."""
        if self._keeps_packets:
            self._context.flush_buffers()
            yield from _decode(self._context, self._packets, sampled)
            return
        with open_container(self._path) as container:
            stream = first_video_stream(container)
            yield from _decode(_single_threaded_decoder(stream), container.demux(stream), sampled)

    def _first_key_packet(self) -> Any | None:
        for packet in self._packets:
            if packet.is_keyframe and packet.size:
                return packet
        for packet in self._unread_packets:
            self._packets.append(packet)
            if packet.is_keyframe and packet.size:
                return packet
        return None


class _PictureBuffer:
    """Buffer of the sampled pictures of a decoded stream; damaged pictures raise an error."""

    def __init__(self, size: tuple[int, int], capacity: int) -> None:
        self._size = size
        self._capacity = capacity
        self._pictures: NDArray[np.uint8] | None = None
        self._orientation: Orientation | None = None
        self._damaged_at: float | None = None
        self.count = 0

    @property
    def is_full(self) -> bool:
        return self.count == self._capacity

    def add_frame(self, frame: Any, *, is_sampled: bool) -> None:
        """Record whether a picture is damaged, and store it if it is sampled."""
        if self._orientation is None:
            self._orientation = read_orientation(frame)
        if frame.is_corrupt:
            self._damaged_at = frame.time or 0.0
        elif frame.key_frame:  # later pictures do not reference earlier, damaged ones
            self._damaged_at = None
        if not is_sampled:
            return
        if self._damaged_at is not None:
            raise UnreadableMedia(f"damaged frame at {self._damaged_at:.2f} s")
        upright = self._orientation.turned(_to_rgb(frame, self._size))
        if self._pictures is None:
            self._pictures = np.empty((self._capacity, *upright.shape), np.uint8)
        self._pictures[self.count] = upright
        self.count += 1

    def repeat_last(self) -> None:
        """Store the last picture once more."""
        if self._pictures is not None:
            self._pictures[self.count] = self._pictures[self.count - 1]
            self.count += 1

    def pictures(self) -> NDArray[np.uint8]:
        """Return all stored pictures, (k, H, W, 3)."""
        if self._pictures is None:
            raise UnreadableMedia("PyAV: no frames can be decoded")
        return self._pictures


def _decode(context: Any, packets: Iterator[Any] | list[Any], sampled: set[int] | None) -> Iterator[Any]:
    for packet in packets:
        is_skippable = sampled is not None and packet.size > 0 and packet.pts not in sampled
        context.skip_frame = "NONREF" if is_skippable else "DEFAULT"
        yield from context.decode(packet)  # the last packet is empty and flushes the decoder


def _to_rgb(frame: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a view of a decoded picture as RGB, (H, W, 3), in one size: the size of video calls changes midway."""
    rgb = frame.reformat(*size, "rgb24", interpolation="BICUBIC", threads=1)
    plane = rgb.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: size[1], : 3 * size[0]].reshape(size[1], size[0], 3)


def _single_threaded_decoder(stream: Any) -> Any:
    """Return the decoder of a stream, limited to one thread; other cores read other clips."""
    stream.codec_context.thread_count = 1
    return stream.codec_context


def _scale_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Scale a size to a longer side of at most ``max_side``; a scaled size is even."""
    factor = min(1.0, max_side / max(size))
    if factor == 1:
        return size
    width, height = (max(2, round(side * factor / 2) * 2) for side in size)
    return width, height
