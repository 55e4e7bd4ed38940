"""Media files: who reads their pictures, whether one has changed, its container and its streams."""

from __future__ import annotations

import errno
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ecmf_pipeline.core.errors import FileUnreachable, UnreadableMedia
from ecmf_pipeline.media.config import MediaConfig

if TYPE_CHECKING:
    from av.container import InputContainer

LEAST_READABLE = 0.9
"""A file of which less than this share of its declared length can be read was cut off: its rest is not guessed."""

_NOT_THE_FILES_FAULT = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.ENETUNREACH,
}
"""What disks, networks and limits of the machine answer; the next run may fare better."""


def resolved_reader(config: MediaConfig) -> Literal["decord", "pyav"]:
    """Whose pictures are read on this machine."""
    if config.reader == "auto":
        return "decord" if importlib.util.find_spec("decord") else "pyav"
    return config.reader


def has_changed(path: Path, size: int) -> bool:
    """Whether a file has another size than it had when it was indexed (0: not known)."""
    try:
        return bool(size) and path.is_file() and path.stat().st_size != size
    except OSError:  # who reads it says what is wrong
        return False


@contextmanager
def open_container(path: str | os.PathLike[str]) -> Iterator[InputContainer]:
    """Open a container for reading; what FFmpeg says against it, then or while it is read, becomes a `ClipError`.

    Raises:
        FileUnreachable: When the file is gone or may not be read, or the machine is at its limits, which says nothing
            about its content.
        UnreadableMedia: When FFmpeg cannot make sense of it.
        MemoryError: When memory runs out.
    """
    import av

    problem = "not a media file that can be read"
    try:
        # `file:` keeps FFmpeg from taking a colon in a name for a protocol; broken tags are no reason to refuse a clip.
        with av.open(f"file:{os.fspath(path)}", metadata_errors="replace") as container:
            problem = "damaged: it opens, but not all of it can be decoded"
            yield container
    except MemoryError:  # which FFmpeg's own is, too
        raise
    except av.FFmpegError as error:
        if error.errno in _NOT_THE_FILES_FAULT:
            raise FileUnreachable(f"the file cannot be read just now ({error.strerror})") from error
        raise UnreadableMedia(f"{problem}: {error.strerror}") from error


def moving_pictures(container: InputContainer) -> list[Any]:
    """The video streams; cover art is none."""
    from av.stream import Disposition

    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def pictures_stream(container: InputContainer) -> Any | None:
    """The first stream of moving pictures, None when there is none."""
    return next(iter(moving_pictures(container)), None)


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
