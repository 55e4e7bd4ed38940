"""What a media file holds, read from its container: nothing is decoded for good."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ecmf_pipeline.containers import open_container, pictures_stream
from ecmf_pipeline.errors import UnreadableMedia

if TYPE_CHECKING:
    from av.container import InputContainer


@dataclass(frozen=True, slots=True)
class Probe:
    """The streams of one file.

    Attributes:
        duration: Length in seconds, to the millisecond; 0 when the file does not tell.
        has_video: Whether it holds moving pictures; cover art is none.
        has_audio: Whether it holds sound.
    """

    duration: float
    has_video: bool
    has_audio: bool


def probe_media(path: str | os.PathLike[str]) -> Probe:
    """Open a file's container and look at its streams.

    A file that is cut off inside passes when its header is whole: only decoding shows that.

    Raises:
        UnreadableMedia: When no container can be read, or it holds neither pictures nor sound.
        FileUnreachable: When the file is gone or may not be read, which says nothing about its content.
    """
    with open_container(path) as container:
        video, audio = pictures_stream(container), container.streams.audio
        if video is None and not audio:
            raise UnreadableMedia("the file holds neither pictures nor sound")
        return Probe(_duration(container), has_video=video is not None, has_audio=bool(audio))


def _duration(container: InputContainer) -> float:
    """From the container, else its streams, else its packets' times (recordings of browsers carry no length)."""
    if container.duration:
        return round(float(container.duration) / 1e6, 3)  # libavformat counts in microseconds (AV_TIME_BASE)
    streams = [*container.streams.video, *container.streams.audio]
    known = [float(s.duration * s.time_base) for s in streams if s.duration and s.time_base]
    if not known:
        known = [
            float(((packet.pts or 0) + (packet.duration or 0)) * packet.time_base)
            for packet in container.demux(streams)
            if packet.pts is not None and packet.time_base
        ]
    return round(max(known, default=0.0), 3)
