"""Read the pictures of parts of a long recording, one part after another, at the cost of about one decode."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import NoVideoStream
from ecmf_pipeline.media.containers import open_container
from ecmf_pipeline.media.pictures import PictureBuffer, decode, deinterlaced
from ecmf_pipeline.media.pyav_reader import ChoosePictures, Pictures, PyAvVideo
from ecmf_pipeline.media.seeking import packets_from

_WORTH_SEEKING = 50
"""Pictures to skip that take longer to decode than to open the file again."""


class RecordedVideo:
    """The video stream of a recording, of which parts are read.

    The pictures are those of a sequential decode. If each packet has a time of its own, decoding starts at the last
    packet before a part at which a decoder can start (`EntryPoints`), or continues after the part before. Otherwise, or
    if the decoded pictures disagree with the packets, the recording is decoded in sequence: once to know the times of
    all pictures, and once more for all parts, if these come in order.

    Args:
        path: The file.
        max_side: Pictures with a longer side are scaled down to this number of pixels.

    Raises:
        NoVideoStream: If there is none, or it has no pictures.
        UnreadableMedia: If its pictures have no size, or no decoder exists.
    """

    def __init__(self, path: Path, max_side: int) -> None:
        with open_container(path) as container:
            self._video = PyAvVideo(path, container, max_side, keeps_packets=False)
            is_plain_h264 = self._video.is_plain_h264
        if not self._video.known:
            raise NoVideoStream("the video stream has no frames")
        self._seeker = _Seeker(self._video, skips=is_plain_h264) if self._video.has_own_times else None
        self._sequence: _Sequence | None = None

    def sample(self, choose: ChoosePictures) -> Pictures:
        """Read the chosen pictures; see `PyAvVideo.sample`."""
        if self._seeker is not None:
            timeline = self._video.timeline
            indices = choose(timeline)
            rgb = self._seeker.read(indices)
            if rgb is not None:
                return Pictures(timeline, indices, rgb)
            self._seeker = None
        self._sequence = self._sequence or _Sequence(self._video)
        indices = choose(self._sequence.timeline)
        return Pictures(self._sequence.timeline, indices, self._sequence.read(indices))


@dataclass(slots=True)
class _ChosenTimes:
    """The times of the chosen pictures; contains all later ones too, since the next part may choose them."""

    times: set[int] = field(default_factory=set)
    last: int = 0

    def __contains__(self, time: object) -> bool:
        """Return whether the picture with a time must be decoded."""
        return time in self.times or (isinstance(time, int) and time > self.last)


class _Seeker:
    """Decode from the last entry point before the chosen pictures, or continue after those that were read last.

    Args:
        video: The stream; each of its packets has a time of its own.
        skips: Whether pictures that are neither chosen nor referenced are not decoded (`PyAvVideo.is_plain_h264`).
    """

    def __init__(self, video: PyAvVideo, *, skips: bool) -> None:
        self._video = video
        self._skips = skips
        self._times = sorted(packet.time for packet in video.known)
        self._positions = {packet.time: position for position, packet in enumerate(video.known)}
        latest = accumulate((packet.time for packet in video.known), max)
        # Pictures after an entry point must not be shown before it.
        self._entries = [
            position
            for position, (packet, before) in enumerate(zip(video.known, chain([None], latest), strict=False))
            if before is None or (packet.is_entry and packet.time > before)
        ]
        self._frames: Iterator[Any] | None = None
        self._buffer = PictureBuffer(video.size, 0)
        self._chosen = _ChosenTimes()
        self._start = 0  # time of the entry point
        self._next_packet = 0
        self._next_shown = 0

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        """Return the chosen pictures; None if the decoder does not return one picture for each packet."""
        chosen = [self._times[index] for index in indices]
        first = min(self._positions[time] for time in chosen)
        entry = self._entries[bisect_right(self._entries, first) - 1]
        self._chosen.times, self._chosen.last = {*chosen}, chosen[-1]
        if self._frames is None or indices[0] < self._next_shown or entry > self._next_packet + _WORTH_SEEKING:
            self._buffer = PictureBuffer(self._video.size, len(chosen))
            self._start, self._next_packet = self._video.known[entry].time, entry
            self._next_shown = bisect_left(self._times, self._start)
            self._frames = self._decoded(entry)
        else:
            self._buffer.restart(len(chosen))
        for frame in self._frames:
            if frame.interlaced_frame or frame.pts not in self._positions:
                return None
            if frame.pts < self._start:  # it may reference pictures before the entry point
                continue
            if not self._skips and frame.pts != self._times[self._next_shown]:
                return None
            self._next_shown = bisect_right(self._times, frame.pts)
            self._buffer.add_frame(frame, frame, is_sampled=frame.pts in self._chosen.times)
            if self._buffer.is_full:
                return self._buffer.pictures()
        return None

    def _decoded(self, entry: int) -> Iterator[Any]:
        packets = packets_from(self._video.path, self._video.stream_index, self._video.known, entry)
        context, packet = next(packets)
        rest = chain([packet], (packet for _, packet in packets))
        return decode(context, self._counted(rest), self._buffer, self._chosen if self._skips else None)

    def _counted(self, packets: Iterator[Any]) -> Iterator[Any]:
        for packet in packets:
            self._next_packet += 1
            yield packet


class _Sequence:
    """Decode all pictures in sequence; start again only if earlier pictures are chosen.

    Attributes:
        timeline: When all pictures are shown.
    """

    def __init__(self, video: PyAvVideo) -> None:
        self._video = video
        self.timeline, _ = video.read_all(np.empty(0, np.int64))
        self._start()

    def _start(self) -> None:
        self._buffer = PictureBuffer(self._video.size, 0)
        self._pictures = deinterlaced(self._video.decoded(self._buffer))
        self._next = 0

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the chosen pictures.

        Raises:
            UnreadableMedia: If one of them is damaged.
        """
        if indices[0] < self._next:
            self._start()
        self._buffer.restart(len(indices))
        chosen = set(indices.tolist())
        for decoded, shown in self._pictures:
            self._buffer.add_frame(decoded, shown, is_sampled=self._next in chosen)
            self._next += 1
            if self._buffer.is_full:
                break
        return self._buffer.pictures()
