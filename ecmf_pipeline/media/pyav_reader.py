"""Read pictures with PyAV; the order and the times of a sequential decode are the truth.

In general every picture of the file is decoded once, in sequence. The packets give a first guess of the times, from
which the pictures to keep are chosen; if the decoded pictures disagree (hidden pictures, guessed times, damage), the
file is decoded a second time.

In plain H.264, packets and pictures correspond one to one, and pictures that are neither sampled nor referenced by
others are not decoded (their `nal_ref_idc` is 0, ITU-T H.264, 7.4.1): half of all pictures with the usual encoders. The
sampled pictures stay bit-identical.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import NoVideoStream, UnreadableMedia
from ecmf_pipeline.media.containers import Extent, PacketReader, open_container, stores_times, video_streams
from ecmf_pipeline.media.pictures import (
    Orientation,
    PictureBuffer,
    decode,
    deinterlaced,
    read_orientation,
    shown_size,
)
from ecmf_pipeline.media.seeking import EntryPoints
from ecmf_pipeline.media.timeline import KnownPacket, StreamClock, Timeline

if TYPE_CHECKING:
    from av.container import InputContainer

_MAX_KEPT_BYTES = 64 * 2**20
"""Maximum bytes of packets that are kept from the first pass; a longer file is read again for each decode."""

_EIGHT_BIT_FORMATS = {"yuv420p", "yuvj420p"}
_PROGRESSIVE = 1  # AV_FIELD_PROGRESSIVE


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
        keeps_packets: Whether to keep the packets in memory if they are few, to decode them without reading them again.

    Attributes:
        path: The file.
        stream_index: Index of the stream in the container.
        known: The times of its packets, in the order of the file.
        size: Width and height in pixels after scaling, with square pixels, before they are turned upright.
        extent: The declared length of the file, or of this stream if less of it can be read.

    Raises:
        NoVideoStream: If there is none.
        UnreadableMedia: If its pictures have no size, or no decoder exists.
    """

    def __init__(self, path: Path, container: InputContainer, max_side: int, *, keeps_packets: bool = True) -> None:
        streams = video_streams(container)
        if not streams:
            raise NoVideoStream("the file has no video stream")
        reader = PacketReader(container)
        packets = _read_packets(reader, streams, _MAX_KEPT_BYTES if keeps_packets else 0)
        # A stream without packets hides no other.
        stream = next((stream for stream in streams if packets[stream.index].known), streams[0])
        self.path, self._stream, self.stream_index = path, stream, stream.index
        self._format = container.format.name
        self._has_one_stream = len(container.streams.video) == 1
        self._context = single_threaded_decoder(stream)
        self._packets, self.known = packets[stream.index].kept, packets[stream.index].known
        self._clock = _clock(container, stream, self.known)
        self.extent = min(reader.extent(), self._own_extent(), key=lambda extent: extent.share)
        stored_size = (self._context.width, self._context.height)
        if not all(stored_size):
            raise UnreadableMedia("the video stream has no size")
        self.size = shown_size(stored_size, stream.sample_aspect_ratio, max_side)
        self._is_scaled = self.size != stored_size

    def _own_extent(self) -> Extent:
        """Compare the packets with the length that the stream declares."""
        if not self._stream.duration or not self.known:
            return Extent(0.0, 0.0)
        ends = [packet.time + packet.length for packet in self.known]
        begin = min(0, *(packet.time for packet in self.known))
        return Extent((max(ends) - begin) * self._clock.time_base, self._stream.duration * self._clock.time_base)

    @cached_property
    def timeline(self) -> Timeline:
        """The times of the pictures as the packets have them: a guess unless `is_plain_h264`."""
        return self._clock.guess()

    @cached_property
    def is_plain_h264(self) -> bool:
        """Whether packets and pictures correspond one to one, with known times: progressive H.264."""
        return (
            self._context.name == "h264"
            and self._context.field_order == _PROGRESSIVE
            and self.has_own_times
            and all(a.dts is not None and b.dts is not None and a.dts < b.dts for a, b in pairwise(self.known))
        )

    @cached_property
    def has_own_times(self) -> bool:
        """Whether each packet has a time of its own, from a key picture on."""
        known = self.known
        times = [packet.pts for packet in known if packet.pts is not None]
        return bool(
            known
            and self._clock.stores_times
            and known[0].is_key
            and len(set(times)) == len(known)
            and min(times) == times[0]
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
        frame = next(self.decoded(PictureBuffer(self.size, 0)), None)
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
        timeline, buffer = self.read_all(indices)
        actual = choose(timeline)
        if not np.array_equal(actual, indices):
            timeline, buffer = self.read_all(actual)
            if not np.array_equal(choose(timeline), actual):
                raise UnreadableMedia("damaged media file: two decodes of it give different pictures")
        return Pictures(timeline, actual, buffer.pictures())

    def _read_selected(self, indices: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        """Return the chosen pictures, decoding others only if these reference them; None if one is missing."""
        times = sorted(packet.time for packet in self.known)
        sampled = {times[index] for index in indices}
        buffer = PictureBuffer(self.size, len(sampled))
        for frame in self.decoded(buffer, sampled):
            if frame.interlaced_frame:  # only some pictures of the film are; their neighbours are needed
                return None
            buffer.add_frame(frame, frame, is_sampled=frame.pts in sampled)
            if buffer.is_full:
                return buffer.pictures()
        return None

    def read_all(self, indices: NDArray[np.int64]) -> tuple[Timeline, PictureBuffer]:
        """Decode all pictures in sequence; keep those at the given positions."""
        sampled = set(indices.tolist())
        buffer = PictureBuffer(self.size, len(sampled))
        times: list[int | None] = []
        length = delay = 0
        for decoded, shown in deinterlaced(self.decoded(buffer)):
            buffer.add_frame(decoded, shown, is_sampled=len(times) in sampled)
            times.append(decoded.pts)
            length = decoded.duration
            delay += decoded.dts is None  # the decoder returned it after the last packet
        if not times:
            raise UnreadableMedia("no frames can be decoded")
        return self._clock.timeline(times, length, delay), buffer

    def decoded(self, buffer: PictureBuffer, sampled: set[int] | None = None) -> Iterator[Any]:
        """Yield the decoded pictures from the start; ``sampled`` times allow others to be skipped."""
        if self._packets:
            self._context.flush_buffers()
            yield from decode(self._context, self._packets, buffer, sampled)
            return
        with open_container(self.path) as container:
            stream = container.streams[self.stream_index]
            yield from decode(single_threaded_decoder(stream), PacketReader(container).packets(stream), buffer, sampled)


@dataclass(slots=True)
class _StreamPackets:
    """The packets of one stream.

    Attributes:
        known: The times of all packets that are not empty.
        kept: The packets, with the empty one that ends the stream; empty if they are too large to keep.
    """

    known: list[KnownPacket] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)


def _read_packets(reader: PacketReader, streams: Sequence[Any], most_kept: int) -> dict[int, _StreamPackets]:
    """Read the packets of some streams, by stream index, and keep them if they have at most ``most_kept`` bytes."""
    read = {stream.index: _StreamPackets() for stream in streams}
    entries = {stream.index: EntryPoints(stream.codec_context) for stream in streams}
    size = 0
    for packet in reader.packets(*streams):
        one = read[packet.stream.index]
        size += packet.size
        if packet.size:
            one.known.append(KnownPacket.of(packet, is_entry=entries[packet.stream.index].has(packet)))
        if size <= most_kept:
            one.kept.append(packet)
    if size > most_kept:
        for one in read.values():
            one.kept.clear()
    return read


def _clock(container: InputContainer, stream: Any, packets: Sequence[KnownPacket]) -> StreamClock:
    time_base, has_times = float(stream.time_base), stores_times(container)
    has_start = has_times and container.start_time is not None
    return StreamClock(
        packets,
        time_base,
        has_times,
        start=float(container.start_time or 0) / 1e6 / time_base if has_start else None,
        end=float((stream.start_time or 0) + stream.duration) if stream.duration else 0.0,
        rate=float(stream.average_rate or 0),
    )


def single_threaded_decoder(stream: Any) -> Any:
    """Return the decoder of a stream, limited to one thread; other cores read other clips."""
    stream.codec_context.thread_count = 1
    return stream.codec_context
