"""decord and PyAV behind one small interface.

``auto`` gives what decord gives, by whichever of the two has less work with it: plain H.264 is read by PyAV, which need
not decode all of it. Else decord, where it is asked for, serves the ordinary case. PyAV serves the rest, all of which
decord gets wrong or cannot do: pictures that must be turned (decord squashes them where it scales, and mirrors none),
several video streams (it takes the largest), clips cut without encoding, codecs that it does not know (AV1), very
narrow pictures (it counts four channels and fails), and films at which its FFmpeg complains: a decoder papers over what
it cannot decode, decord gives the patched pictures out, and PyAV says which they are.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import UnreadableMedia
from ecmf_pipeline.media.containers import LEAST_READABLE, open_container
from ecmf_pipeline.media.pyav_reader import ROUNDING, PyAvVideo

Reader = Literal["auto", "decord", "pyav"]
"""Whose pictures are asked for; see above."""


class VideoReader(Protocol):
    """A file's pictures, by index."""

    size: tuple[int, int]
    """Width and height of the pictures as they are decoded, in pixels."""

    def spans(self) -> NDArray[np.float64]:
        """Start and end of every picture in seconds, in order of time, (n, 2)."""
        ...

    def pictures(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """RGB pictures at increasing indices, (k, H, W, 3)."""
        ...


@contextmanager
def open_video(path: Path, *, max_side: int, reader: Reader) -> Iterator[VideoReader]:
    """Open a file's first real video stream for the length of a block.

    Raises:
        NoVideoStream: When there is none.
        UnreadableMedia: When the file cannot be opened or is cut off.
    """
    with open_container(path) as container:
        film = PyAvVideo(path, container, max_side)
        video = _pick(path, film, reader)
        spans = video.spans()
        readable = float(spans[-1, 1] - spans[0, 0]) if len(spans) else 0.0
        if readable < LEAST_READABLE * film.seconds:
            raise UnreadableMedia(f"video is cut off: {readable:.2f} of {film.seconds:.2f} declared seconds are there")
        yield video


def _pick(path: Path, film: PyAvVideo, reader: Reader) -> VideoReader:
    if reader == "pyav" or (reader == "auto" and film.is_plain):
        return film
    if not film.is_only or not film.orientation.is_upright:
        return film
    size = film.size if film.size != film.stored_size else None
    return _decord(path, size, film) or film


def _decord(path: Path, size: tuple[int, int] | None, otherwise: VideoReader) -> VideoReader | None:
    """The file in decord, None where its pictures would not be those that are shown."""
    try:
        video = DecordVideo(path, size, otherwise)
    except UnreadableMedia:  # PyAV has opened it: whether it can go on, too, it says itself
        return None
    spans = video.spans()
    # A clip that was cut without encoding it again begins with pictures that are decoded but not shown. decord
    # counts them and gives others for them: PyAV says which they are.
    return None if len(spans) and spans[0, 0] < -ROUNDING else video


class DecordVideo:
    """Pictures by decord, single-threaded: clips are short, and the cores have other clips to read.

    Args:
        path: The file.
        size: Width and height to scale to, None to leave them.
        otherwise: The same film in the reader whose pictures count where decord's FFmpeg complains.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None, otherwise: VideoReader) -> None:
        import decord

        self._errors = (decord.DECORDError, RuntimeError)
        self._otherwise = otherwise
        self.size = otherwise.size
        width, height = size or (-1, -1)
        try:
            with _native_stderr() as said:
                # Absolute, or FFmpeg takes a colon in a name for a protocol.
                self._reader = decord.VideoReader(str(path.absolute()), num_threads=1, width=width, height=height)
        except self._errors as error:
            raise UnreadableMedia(f"decord: {_first_line(str(error))}") from error
        self._complaint = said[0]

    def spans(self) -> NDArray[np.float64]:
        """Start and end of every picture in seconds, (n, 2)."""
        count = len(self._reader)
        return np.asarray(self._reader.get_frame_timestamp(range(count)), np.float64).reshape(count, 2)

    def pictures(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """RGB pictures at increasing indices, (k, H, W, 3)."""
        with _native_stderr() as said:
            try:
                pictures: NDArray[np.uint8] = self._reader.get_batch(list(indices)).asnumpy()
            except self._errors as error:
                self._complaint = self._complaint or str(error)
        complaint = self._complaint or said[0]
        if not complaint:
            return pictures
        if len(self._otherwise.spans()) != len(self._reader):
            raise UnreadableMedia(f"the pictures are damaged: {_first_line(complaint)}")
        return self._otherwise.pictures(indices)


@contextmanager
def _native_stderr() -> Iterator[list[str]]:
    """Collect what native code writes to file descriptor 2, as one text that is there once the block is left."""
    said: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            heard.seek(0)
            said.append(heard.read().decode(errors="replace").strip())


def _first_line(text: str) -> str:
    """What decord says, without the time and the place in its source: the same film must get the same message."""
    lines = [re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", line) for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else "decord gives no reason"
