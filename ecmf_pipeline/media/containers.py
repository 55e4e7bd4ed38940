"""Open media files: choose the reader, detect changed files, probe the container and its streams."""

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
from ecmf_pipeline.core.files import LFS_COMMAND, LFS_PROBLEM, file_state, is_lfs_pointer
from ecmf_pipeline.media.config import MediaConfig

if TYPE_CHECKING:
    from av.container import InputContainer

_TRANSIENT_ERRNOS = {
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
"""Errors of disks, networks and limits of the machine; they may not occur in the next run."""


def resolve_reader(config: MediaConfig) -> Literal["decord", "pyav"]:
    """Return the reader whose frames are used on this machine."""
    if config.reader == "auto":
        return "decord" if importlib.util.find_spec("decord") else "pyav"
    return config.reader


def has_changed(path: Path, size: int) -> bool:
    """Return whether the size of a file, or of a folder of pictures, differs from that in the index (0: unknown)."""
    try:
        return bool(size) and path.exists() and file_state(path)[0] != size
    except OSError:  # reading the file raises a better error
        return False


@contextmanager
def open_container(path: str | os.PathLike[str]) -> Iterator[InputContainer]:
    """Open a container for reading. Errors of FFmpeg, now or while it is read, become a `ClipError`.

    Raises:
        FileUnreachable: If the file does not exist or is not readable, or if a limit of the machine is reached. This
            depends on the machine, not on the content.
        UnreadableMedia: If FFmpeg cannot decode it.
        MemoryError: If memory runs out.
    """
    import av

    problem = "not a readable media file"
    try:
        # `file:` prevents FFmpeg from parsing a colon in a name as a protocol. Broken tags are accepted.
        with av.open(f"file:{os.fspath(path)}", metadata_errors="replace") as container:
            problem = "damaged media file, only a part can be decoded"
            yield container
    except MemoryError:  # also a base class of FFmpeg's own
        raise
    except av.FFmpegError as error:
        if error.errno in _TRANSIENT_ERRNOS:
            raise FileUnreachable(f"cannot read the file: {error.strerror}") from error
        if is_lfs_pointer(path):
            raise UnreadableMedia(f"the file {LFS_PROBLEM}; run {LFS_COMMAND}") from error
        raise UnreadableMedia(f"{problem}: {error.strerror}") from error


def video_streams(container: InputContainer) -> list[Any]:
    """Return the video streams without cover art."""
    from av.stream import Disposition

    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def first_video_stream(container: InputContainer) -> Any | None:
    """Return the first video stream without cover art; None if there is none."""
    return next(iter(video_streams(container)), None)


@dataclass(frozen=True, slots=True)
class Probe:
    """The streams of a file.

    Attributes:
        duration: Length in seconds, to the millisecond; 0 if unknown.
        has_video: Whether it has a video stream; cover art does not count.
        has_audio: Whether it has an audio stream.
    """

    duration: float
    has_video: bool
    has_audio: bool


def probe_media(path: str | os.PathLike[str]) -> Probe:
    """Open the container of a file and read its streams.

    A file that is truncated after its header passes: only decoding can detect that.

    Raises:
        UnreadableMedia: If there is no readable container, or it has neither video nor audio.
        FileUnreachable: If the file does not exist or is not readable; this does not depend on its content.
    """
    with open_container(path) as container:
        video, audio = first_video_stream(container), container.streams.audio
        if video is None and not audio:
            raise UnreadableMedia("the file has neither a video nor an audio stream")
        return Probe(_duration(container), has_video=video is not None, has_audio=bool(audio))


def _duration(container: InputContainer) -> float:
    """Return the length from the container, its streams or, for browser recordings, the packet times."""
    if container.duration:
        return round(float(container.duration) / 1e6, 3)  # AV_TIME_BASE is microseconds
    streams = [*container.streams.video, *container.streams.audio]
    known = [float(stream.duration * stream.time_base) for stream in streams if stream.duration and stream.time_base]
    if not known:
        known = [
            float(((packet.pts or 0) + (packet.duration or 0)) * packet.time_base)
            for packet in container.demux(streams)
            if packet.pts is not None and packet.time_base
        ]
    return round(max(known, default=0.0), 3)
