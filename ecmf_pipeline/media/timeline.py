"""When the pictures of a stream are shown, from the times of its packets and of its decoded pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Half
from ecmf_pipeline.core.errors import UnreadableMedia

_MAX_REORDERED = 16
"""Pictures by which decoding order and order of showing may differ (ITU-T H.264, A.3.1)."""

_TIE = 1e-3
"""Part of the usual distance by which pictures with the same time are moved apart."""

_MAX_SECONDS = 2.0**17
"""Later times are damage; times are stored as float32, whose steps are larger than 1/64 s beyond this (36 hours)."""


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


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file: a span of time, and perhaps one half of the pictures.

    Attributes:
        start: Start in seconds from the start of the file.
        end: End in seconds; 0 for the whole file.
        half: The half of the pictures.
    """

    start: float = 0.0
    end: float = 0.0
    half: Half = Half.WHOLE

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the time."""
        return not self.end

    def within(self, timeline: Timeline) -> tuple[float, float]:
        """Return start and end of the part in which pictures are shown.

        Raises:
            UnreadableMedia: If there is none.
        """
        begin, end = float(timeline.starts[0]), timeline.end
        if self.is_whole:
            return begin, end
        if min(end, self.end) <= max(begin, self.start):
            raise UnreadableMedia(f"no pictures from {self.start:.2f} to {self.end:.2f} s: they end at {end:.2f} s")
        return max(begin, self.start), min(end, self.end)


WHOLE = Span()


@dataclass(frozen=True, slots=True)
class KnownPacket:
    """Times of a packet in time base units; ``time`` is when it is shown, or when it is decoded if that is unknown.

    ``is_entry`` is whether a decoder that starts here returns all pictures from here on as a sequential decode does.
    """

    time: int
    pts: int | None
    dts: int | None
    length: int
    is_key: bool
    is_discarded: bool
    size: int = 0
    is_entry: bool = False

    @classmethod
    def of(cls, packet: Any, *, is_entry: bool = False) -> KnownPacket:
        """Read the times of a packet."""
        time = packet.pts if packet.pts is not None else packet.dts or 0
        return cls(
            time,
            packet.pts,
            packet.dts,
            packet.duration or 0,
            packet.is_keyframe,
            packet.is_discard,
            packet.size,
            is_entry,
        )


@dataclass(frozen=True, slots=True)
class StreamClock:
    """What a container knows about the times of a stream.

    Attributes:
        packets: The packets of the stream.
        time_base: Seconds of a tick, the unit of their times.
        stores_times: Whether the container stores when pictures are shown.
        start: Tick at which the file starts; None: that of the first picture.
        end: Tick at which the stream ends by its declared length; 0 if unknown.
        rate: Declared pictures per second; 0 if unknown.
    """

    packets: Sequence[KnownPacket]
    time_base: float
    stores_times: bool
    start: float | None
    end: float
    rate: float

    def guess(self) -> Timeline:
        """Return the timeline as the packets have it."""
        shown = sorted(self._shown, key=attrgetter("time"))
        return self.timeline([packet.pts for packet in shown], shown[-1].length if shown else 0)

    def timeline(self, times: Sequence[int | None], last_length: int, delay: int = 0) -> Timeline:
        """Return the timeline of pictures.

        Args:
            times: Their times in ticks, in the order in which they are shown; None if unknown.
            last_length: Length of the last picture in ticks; 0 if unknown.
            delay: Number of packets between that of a picture and the one after which the decoder returns it.

        Raises:
            UnreadableMedia: If the times are beyond 36 hours.
        """
        if not times:
            return Timeline(np.empty(0), 0.0)
        step = self._usual_step()
        ticks = self._ticks(times, step, delay)
        start = float(ticks[0]) if self.start is None else self.start
        last = float(ticks[-1])
        step = float(np.median(np.diff(ticks))) if len(ticks) > 1 else step
        # The length of a packet lasts to the next in decoding order: the declared end is better if it is plausible.
        end = self.end if last < self.end <= last + 2 * max(step, last_length) else last + (last_length or step)
        timeline = Timeline((ticks - start) * self.time_base, (end - start) * self.time_base)
        first, last = float(timeline.starts[0]), timeline.end
        if not max(abs(first), abs(last)) < _MAX_SECONDS:
            raise UnreadableMedia(f"damaged times: the frames are shown from {first:.6g} to {last:.6g} s")
        return timeline

    @property
    def _shown(self) -> list[KnownPacket]:
        return [packet for packet in self.packets if not packet.is_discarded]

    def _usual_step(self) -> float:
        """Return the usual distance of two pictures in ticks."""
        if self.rate:
            return 1 / self.rate / self.time_base
        steps = np.diff(np.array([packet.dts for packet in self.packets if packet.dts is not None], np.float64))
        return float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0

    def _ticks(self, times: Sequence[int | None], step: float, delay: int) -> NDArray[np.float64]:
        """Return the increasing times of pictures in ticks, (n,); ``step`` is their usual distance."""
        shown = self._shown
        by_decoding = [packet.dts for packet in shown]
        if self.stores_times and _increases(times):
            return np.array(times, np.float64)
        if len(shown) == len(times) and not self.stores_times and _increases(by_decoding):
            ticks = np.array(by_decoding, np.float64)
            return np.concatenate([ticks[delay:], ticks[-1] + step * np.arange(1, delay + 1)])
        for known in ([packet.pts for packet in shown], times):
            if len(known) == len(times) and None not in known:
                return _in_order(np.array(known, np.float64), step)
        return np.arange(len(times), dtype=np.float64) * step + (self.start or 0.0)


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
