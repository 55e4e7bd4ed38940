"""Faults that damaged files revealed in the readers."""

from __future__ import annotations

import gc
import struct
from dataclasses import replace
from pathlib import Path

import av
import pytest

from ecmf_pipeline.core.errors import UnreadableMedia
from ecmf_pipeline.media.audio import read_audio
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.pictures import read_orientation
from ecmf_pipeline.media.timeline import KnownPacket, StreamClock
from tools.soak.media_sources import SOURCES

PACKETS = [KnownPacket(40 * n, 40 * n, 40 * n, 40, is_key=n == 0, is_discarded=False) for n in range(5)]
CLOCK = StreamClock(PACKETS, time_base=1e-3, stores_times=True, start=0.0, end=0.0, rate=25.0)


def test_packets_with_and_without_times_are_ordered() -> None:
    timeless = replace(PACKETS[1], pts=None)  # both are decoded at the same time
    assert len(replace(CLOCK, packets=[timeless, *PACKETS]).guess()) == 6


@pytest.mark.parametrize("jump", [2**31, 2**62])
def test_times_beyond_days_are_damage(jump: int) -> None:
    """As float32, the times of neighbouring pictures would be equal."""
    times = [packet.time for packet in PACKETS]
    assert len(CLOCK.timeline(times, 40)) == 5
    with pytest.raises(UnreadableMedia):
        CLOCK.timeline([*times, jump], 40)


def test_a_picture_is_freed_when_its_last_reader_is_done(tmp_path: Path) -> None:
    """A reference cycle keeps the decoder of each clip: 100 MB for pictures of 8192 x 8192."""
    path = tmp_path / "turned.mp4"
    SOURCES["mp4"][0].write(path)
    gc.collect()
    gc.disable()
    try:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
        read_orientation(frame)
        del frame
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_samples_that_are_signalling_nans_are_refused_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    SOURCES["wav"][1].write(path)
    content = bytearray(path.read_bytes())
    content[-400:] = struct.pack("<I", 0x7FA0_0000) * 100  # IEEE 754: the highest bit of the fraction is not set
    path.write_bytes(content)
    with pytest.raises(UnreadableMedia):
        read_audio(path, MediaConfig())
