"""Read pictures with PyAV; the order and the times of a sequential decode are the truth.

In general every picture of the file is decoded once, in sequence. The packets give a first guess of the times, from
which the pictures to keep are chosen; if the decoded pictures disagree (hidden pictures, guessed times, damage), the
file is decoded a second time.

In plain H.264, packets and pictures correspond one to one, and pictures that are neither sampled nor referenced by
others are not decoded (their `nal_ref_idc` is 0, ITU-T H.264, 7.4.1): half of all pictures with the usual encoders. The
sampled pictures stay bit-identical.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import chain, groupby, pairwise
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import NoVideoStream, TooManyPictures, UnreadableMedia
from ecmf_pipeline.media.containers import Extent, PacketReader, open_container, stores_times, video_streams

if TYPE_CHECKING:
    from av.container import InputContainer

_MAX_KEPT_BYTES = 64 * 2**20
"""Maximum bytes of packets that are kept from the first pass; a longer file is read again for each decode."""

_MAX_DECODED_BYTES = 2**30
"""Maximum size of the decoded frames of one clip."""

_MAX_PIXEL_ASPECT = 8.0
"""Pixels that are declared even less square are taken as square: no camera has them."""

_MAX_REORDERED = 16
"""Pictures by which decoding order and order of showing may differ (ITU-T H.264, A.3.1)."""

_TIE = 1e-3
"""Part of the usual distance by which pictures with the same time are moved apart."""

_EIGHT_BIT_FORMATS = {"yuv420p", "yuvj420p"}
_PROGRESSIVE = 1  # AV_FIELD_PROGRESSIVE


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
    from av.sidedata.sidedata import Type

    try:
        data = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # PyAV has no name for another side data of the frame; it still returns the rotation
        return Orientation(turns=round(-frame.rotation / 90) % 4)
    if data is None:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])  # x' = a x + c y, y' = b x + d y; y points down
    return Orientation(turns=round(math.degrees(math.atan2(b, a)) / 90) % 4, mirrored=a * d - b * c < 0)


@dataclass(frozen=True, slots=True)
class Timeline:
    """When the pictures of a stream are shown.

    Attributes:
        starts: Start of each picture in seconds from the start of the file, increasing, (n,).
        end: End of the last picture in seconds.
    """

    starts: NDArray[np.float64]
    end: float

    def __len__(self) -> int:
        return len(self.starts)


ChoosePictures = Callable[[Timeline], NDArray[np.int64]]
"""Choose pictures of a timeline: increasing indices without repeats."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures of a stream.

    Attributes:
        timeline: When all pictures of the stream are shown.
        indices: The chosen ones, (k,).
        rgb: The chosen pictures, uint8 (k, H, W, 3).
    """

    timeline: Timeline
    indices: NDArray[np.int64]
    rgb: NDArray[np.uint8]


class PyAvVideo:
    """The video stream of an open container that players show; reads all packets of the file.

    Args:
        path: The file.
        container: The opened file, at its start; it must stay open during use.
        max_side: Pictures with a longer side are scaled down to this number of pixels.

    Attributes:
        size: Width and height in pixels after scaling, with square pixels, before they are turned upright.
        extent: The declared length of the file, or of this stream if less of it can be read.

    Raises:
        NoVideoStream: If there is none.
        UnreadableMedia: If its pictures have no size, or no decoder exists.
    """

    def __init__(self, path: Path, container: InputContainer, max_side: int) -> None:
        streams = video_streams(container)
        if not streams:
            raise NoVideoStream("the file has no video stream")
        reader = PacketReader(container)
        packets = _read_packets(reader, streams)
        # A stream without packets hides no other.
        stream = next((stream for stream in streams if packets[stream.index].known), streams[0])
        self._path, self._stream = path, stream
        self._format = container.format.name
        self._has_one_stream = len(container.streams.video) == 1
        self._stores_times = stores_times(container)
        self._time_base = float(stream.time_base)
        has_start = self._stores_times and container.start_time is not None
        self._start_tick = container.start_time / 1e6 / self._time_base if has_start else None
        self._context = _single_threaded_decoder(stream)
        self._packets, self._known = packets[stream.index].kept, packets[stream.index].known
        self.extent = min(reader.extent(), self._own_extent(), key=lambda extent: extent.share)
        stored_size = (self._context.width, self._context.height)
        if not all(stored_size):
            raise UnreadableMedia("the video stream has no size")
        self.size = _shown_size(stored_size, stream.sample_aspect_ratio, max_side)
        self._is_scaled = self.size != stored_size

    def _own_extent(self) -> Extent:
        """Compare the packets with the length that the stream declares."""
        if not self._stream.duration or not self._known:
            return Extent(0.0, 0.0)
        ends = [packet.time + packet.length for packet in self._known]
        begin = min(0, *(packet.time for packet in self._known))
        return Extent((max(ends) - begin) * self._time_base, self._stream.duration * self._time_base)

    @cached_property
    def timeline(self) -> Timeline:
        """The times of the pictures as the packets have them: a guess unless `is_plain_h264`."""
        shown = sorted((packet for packet in self._known if not packet.is_discarded), key=attrgetter("time"))
        return self._timeline([packet.pts for packet in shown], shown[-1].length if shown else 0)

    @cached_property
    def is_plain_h264(self) -> bool:
        """Whether packets and pictures correspond one to one, with known times: progressive H.264."""
        known = self._known
        times = [packet.pts for packet in known if packet.pts is not None]
        return bool(
            known
            and self._context.name == "h264"
            and self._context.field_order == _PROGRESSIVE
            and self._stores_times
            and known[0].is_key
            and len(set(times)) == len(known)
            and min(times) == times[0]
            and all(a.dts is not None and b.dts is not None and a.dts < b.dts for a, b in pairwise(known))
            and not any(packet.is_discarded for packet in known)
        )

    @property
    def matches_decord(self) -> bool:
        """Whether decord returns exactly the same pictures: plain 8-bit 4:2:0 H.264, neither scaled nor turned."""
        return (
            self.is_plain_h264
            and self._format != "mpegts"  # in which decord miscounts
            and self._context.pix_fmt in _EIGHT_BIT_FORMATS
            and not self._is_scaled
            and self._has_one_stream
            and bool(self._packets)
            and self._first_orientation() == Orientation()
        )

    def _first_orientation(self) -> Orientation | None:
        """Return the orientation of the first picture, which PyAV has only with decoded pictures; None if damaged."""
        frame = next(self._decoded(_PictureBuffer(self.size, 0)), None)
        return read_orientation(frame) if frame is not None else None

    def sample(self, choose: ChoosePictures) -> Pictures:
        """Read the chosen pictures.

        Raises:
            NoVideoStream: If the stream has no pictures.
            UnreadableMedia: If a chosen picture is damaged or cannot be decoded.
            TooManyPictures: If the chosen pictures would take more than 1 GB.
        """
        timeline = self.timeline
        if len(timeline) == 0:
            raise NoVideoStream("the video stream has no frames")
        indices = choose(timeline)
        if self.is_plain_h264:
            rgb = self._read_selected(indices)
            if rgb is not None:
                return Pictures(timeline, indices, rgb)
        timeline, buffer = self._read_all(indices)
        actual = choose(timeline)
        if not np.array_equal(actual, indices):
            timeline, buffer = self._read_all(actual)
        return Pictures(timeline, actual, buffer.pictures())

    def _read_selected(self, indices: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        """Return the chosen pictures, decoding others only if these reference them; None if one is missing."""
        times = sorted(packet.time for packet in self._known)
        sampled = {times[index] for index in indices}
        buffer = _PictureBuffer(self.size, len(sampled))
        for frame in self._decoded(buffer, sampled):
            buffer.add_frame(frame, frame, is_sampled=frame.pts in sampled)
            if buffer.is_full:
                return buffer.pictures()
        return None

    def _read_all(self, indices: NDArray[np.int64]) -> tuple[Timeline, _PictureBuffer]:
        """Decode all pictures in sequence; keep those at the given positions."""
        sampled = set(indices.tolist())
        buffer = _PictureBuffer(self.size, len(sampled))
        times: list[int | None] = []
        length = delay = 0
        for decoded, shown in _deinterlaced(self._decoded(buffer)):
            buffer.add_frame(decoded, shown, is_sampled=len(times) in sampled)
            times.append(decoded.pts)
            length = decoded.duration
            delay += decoded.dts is None  # the decoder returned it after the last packet
        if not times:
            raise UnreadableMedia("no frames can be decoded")
        return self._timeline(times, length, delay), buffer

    def _decoded(self, buffer: _PictureBuffer, sampled: set[int] | None = None) -> Iterator[Any]:
        """Yield the decoded pictures from the start; ``sampled`` times allow others to be skipped."""
        if self._packets:
            self._context.flush_buffers()
            yield from _decode(self._context, self._packets, buffer, sampled)
            return
        with open_container(self._path) as container:
            stream = container.streams[self._stream.index]
            yield from _decode(
                _single_threaded_decoder(stream), PacketReader(container).packets(stream), buffer, sampled
            )

    def _timeline(self, times: Sequence[int | None], last_length: int, delay: int = 0) -> Timeline:
        """Return the timeline of pictures in the order in which they are shown.

        Args:
            times: Their times in time base units, as far as the container stores them.
            last_length: Length of the last picture; 0 if unknown.
            delay: Number of packets between that of a picture and the one after which the decoder returns it.
        """
        if not times:
            return Timeline(np.empty(0), 0.0)
        step = self._usual_step()
        ticks = self._ticks(times, step, delay)
        start = float(ticks[0]) if self._start_tick is None else self._start_tick
        last = float(ticks[-1])
        step = float(np.median(np.diff(ticks))) if len(ticks) > 1 else step
        declared_end = float(self._stream.start_time or 0) + float(self._stream.duration or 0)
        # The length of a packet lasts to the next in decoding order: the declared end is better if it is plausible.
        end = declared_end if last < declared_end <= last + 2 * max(step, last_length) else last + (last_length or step)
        return Timeline((ticks - start) * self._time_base, (end - start) * self._time_base)

    def _usual_step(self) -> float:
        """Return the usual distance of two pictures in time base units."""
        if rate := self._stream.average_rate:
            return float(1 / rate) / self._time_base
        steps = np.diff(np.array([packet.dts for packet in self._known if packet.dts is not None], np.float64))
        return float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0

    def _ticks(self, times: Sequence[int | None], step: float, delay: int) -> NDArray[np.float64]:
        """Return the increasing times of pictures in time base units, (n,).

        Args:
            times: Times of the decoded pictures, in the order in which they are shown.
            step: Usual distance of two pictures.
            delay: See `_timeline`.
        """
        shown = [packet for packet in self._known if not packet.is_discarded]
        by_decoding = [packet.dts for packet in shown]
        if self._stores_times and _increases(times):
            return np.array(times, np.float64)
        if len(shown) == len(times) and not self._stores_times and _increases(by_decoding):
            ticks = np.array(by_decoding, np.float64)
            return np.concatenate([ticks[delay:], ticks[-1] + step * np.arange(1, delay + 1)])
        for known in ([packet.pts for packet in shown], times):
            if len(known) == len(times) and None not in known:
                return _in_order(np.array(known, np.float64), step)
        return np.arange(len(times), dtype=np.float64) * step + (self._start_tick or 0.0)


def _increases(times: Sequence[int | None]) -> bool:
    """Return whether all times are known and each is later than the one before."""
    return all(a is not None and b is not None and a < b for a, b in pairwise([-math.inf, *times]))


def _in_order(times: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Make the times of pictures in the order in which they are shown increase, (n,).

    Some containers store times in decoding order only: FFmpeg's guesses then belong to neighbouring pictures. Where
    times jump back by more than that, another recording was appended: it follows the last picture.

    Args:
        times: Times as decoded.
        step: Usual distance of two pictures.
    """
    is_new = np.diff(times) < -_MAX_REORDERED * step
    recordings = [np.sort(recording) for recording in np.split(times, np.flatnonzero(is_new) + 1)]
    for previous, recording in pairwise(recordings):
        recording += previous[-1] + step - recording[0]
    ticks = np.concatenate(recordings)
    # Equal times would hide a picture.
    return np.maximum.accumulate(ticks) + _TIE * step * np.arange(len(ticks)) if (np.diff(ticks) <= 0).any() else ticks


@dataclass(frozen=True, slots=True)
class _KnownPacket:
    """Times of a packet in time base units; ``time`` is when it is shown, or when it is decoded if that is unknown."""

    time: int
    pts: int | None
    dts: int | None
    length: int
    is_key: bool
    is_discarded: bool

    @classmethod
    def of(cls, packet: Any) -> _KnownPacket:
        time = packet.pts if packet.pts is not None else packet.dts or 0
        return cls(time, packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, packet.is_discard)


@dataclass(slots=True)
class _StreamPackets:
    """The packets of one stream.

    Attributes:
        known: The times of all packets that are not empty.
        kept: The packets, with the empty one that ends the stream; empty if they are too large to keep.
    """

    known: list[_KnownPacket] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)


def _read_packets(reader: PacketReader, streams: Sequence[Any]) -> dict[int, _StreamPackets]:
    """Read the packets of some streams, by stream index."""
    read = {stream.index: _StreamPackets() for stream in streams}
    size = 0
    for packet in reader.packets(*streams):
        one = read[packet.stream.index]
        size += packet.size
        if packet.size:
            one.known.append(_KnownPacket.of(packet))
        if size <= _MAX_KEPT_BYTES:
            one.kept.append(packet)
    if size > _MAX_KEPT_BYTES:
        for one in read.values():
            one.kept.clear()
    return read


class _PictureBuffer:
    """The sampled pictures of a decoded stream.

    Attributes:
        is_damaged: Whether the decoder reported an error since the last key picture.
    """

    def __init__(self, size: tuple[int, int], capacity: int) -> None:
        needed = 3 * size[0] * size[1] * capacity
        if needed > _MAX_DECODED_BYTES:
            raise TooManyPictures(
                f"{capacity} frames of {size[0]} x {size[1]} need {needed / 2**30:.1f} GB, the limit is "
                f"{_MAX_DECODED_BYTES / 2**30:.0f} GB: reduce frames or media.max_side"
            )
        self._size = size
        self._capacity = capacity
        self._pictures: NDArray[np.uint8] | None = None
        self._orientation: Orientation | None = None
        self._first_damaged: float | None = None  # time of the first sampled picture that is damaged
        self._count = 0
        self.is_damaged = False

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


def _decode(context: Any, packets: Iterable[Any], buffer: _PictureBuffer, sampled: set[int] | None) -> Iterator[Any]:
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


def _deinterlaced(frames: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
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


def _single_threaded_decoder(stream: Any) -> Any:
    """Return the decoder of a stream, limited to one thread; other cores read other clips."""
    stream.codec_context.thread_count = 1
    return stream.codec_context


def _shown_size(size: tuple[int, int], pixel_aspect: Fraction | None, max_side: int) -> tuple[int, int]:
    """Return the size in square pixels, scaled to a longer side of at most ``max_side``; a scaled size is even."""
    width, height = size
    aspect = float(pixel_aspect or 1)
    if 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT:
        width = max(1, round(width * aspect))
    factor = min(1.0, max_side / max(width, height))
    if factor == 1:
        return width, height
    return max(2, round(width * factor / 2) * 2), max(2, round(height * factor / 2) * 2)
