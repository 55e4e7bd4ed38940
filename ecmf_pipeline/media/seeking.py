"""Read the packets of a stream from a picture in the middle at which a decoder can start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ecmf_pipeline.media.containers import PacketReader, open_container
from ecmf_pipeline.media.timeline import KnownPacket

_RESETTING_CODECS = {"vp8", "vp9", "av1", "mpeg4", "mjpeg", "prores", "dnxhd", "ffv1", "huffyuv", "ffvhuff"}
"""Codecs in which no picture that is shown after a key picture references one before it."""

_SEEKS = (0.0, 1.0, 5.0)
"""Seconds before a packet to which to seek, one after the other, until the packet is found."""


class EntryPoints:
    """Recognise packets at which a decoder can start.

    From there on, and for all times from that of the packet on, it returns the same pictures as a sequential decode. In
    H.264, these are the instantaneous decoding refresh pictures (IDR) only: later pictures may reference those before
    another key picture, and a recovery point may be exact only some pictures later (ITU-T H.264, 7.4.1.2.4). In HEVC,
    these are all random access pictures: no picture that is shown after one references those before it (ITU-T H.265,
    3.72). Other codecs have none unless their key pictures reset the decoder.
    """

    def __init__(self, context: Any) -> None:
        self._codec = context.codec.canonical_name if context is not None else ""
        extradata = bytes(context.extradata or b"") if self._codec in {"h264", "hevc"} else b""
        # MP4 and Matroska store the length before each unit; the others start units with 0, 0, 1.
        position = 4 if self._codec == "h264" else 21
        has_lengths = len(extradata) > position and extradata[0] == 1
        self._length_bytes = 1 + (extradata[position] & 3) if has_lengths else 0

    def has(self, packet: Any) -> bool:
        """Return whether a packet is one of them."""
        if not packet.is_keyframe:
            return False
        if self._codec == "h264":
            return any(first & 31 == 5 for first in self._first_bytes(bytes(packet)))
        if self._codec == "hevc":
            return any(16 <= first >> 1 & 63 <= 21 for first in self._first_bytes(bytes(packet)))
        return self._codec in _RESETTING_CODECS

    def _first_bytes(self, data: bytes) -> Iterator[int]:
        """Yield the first byte, which has the type, of each unit of a packet."""
        position = 0
        if self._length_bytes:
            while position + self._length_bytes < len(data):
                start = position + self._length_bytes
                yield data[start]
                position = start + int.from_bytes(data[position:start], "big")
            return
        while 0 <= (position := data.find(b"\0\0\1", position)) < len(data) - 3:
            yield data[position + 3]
            position += 3


def packets_from(path: Path, stream_index: int, known: Sequence[KnownPacket], first: int) -> Iterator[tuple[Any, Any]]:
    """Yield the decoder of a stream with each of its packets from one on, then with an empty packet.

    The packets are compared with those of a sequential read. If a seek leads to others, the file is read from its
    start.

    Args:
        path: The file.
        stream_index: The stream.
        known: All packets of the stream, in the order of the file; each must have a time of its own.
        first: Index of the first packet.
    """
    with open_container(path) as container:
        stream = container.streams[stream_index]
        context = stream.codec_context
        context.thread_count = 1
        for packet in _from(path, container, stream, known, first):
            yield context, packet


def _from(path: Path, container: Any, stream: Any, known: Sequence[KnownPacket], first: int) -> Iterator[Any]:
    import av

    position = first
    time = known[first].dts if known[first].dts is not None else known[first].time
    for seconds in _SEEKS if first else ():
        try:
            container.seek(time - round(seconds / stream.time_base), stream=stream)
        except av.FFmpegError:
            break
        for packet in container.demux(stream):
            if position == first and not _is(packet, known[first]):
                if not packet.size or (packet.is_keyframe and (packet.pts or 0) > known[first].time):
                    break  # the seek went too far
                continue
            if position < len(known) and not _is(packet, known[position]):
                break
            yield packet
            position += 1
        if position > len(known):  # with the empty packet at the end
            return
        if position > first:
            break
    count = 0
    with open_container(path) as container:
        for packet in PacketReader(container).packets(container.streams[stream.index]):
            if count >= position:
                yield packet
            count += packet.size > 0


def _is(packet: Any, known: KnownPacket) -> bool:
    return (packet.pts, packet.size) == (known.pts, known.size)
