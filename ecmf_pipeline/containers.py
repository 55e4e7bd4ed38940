"""Open a media file's container, the same way wherever one is opened."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ecmf_pipeline.errors import FileUnreachable, UnreadableMedia

if TYPE_CHECKING:
    from av.container import InputContainer

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
