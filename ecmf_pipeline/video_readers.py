"""decord and PyAV behind one small interface.

decord, where it is asked for, serves the ordinary case. PyAV serves the rest, all of which decord gets wrong or cannot
do: pictures that must be turned (decord squashes them where it scales, and mirrors none), several video streams (it
takes the largest), clips cut without encoding, codecs that it does not know (AV1), very narrow pictures (it counts four
channels and fails), and films at which its FFmpeg complains: a decoder papers over what it cannot decode, decord gives
the patched pictures out, and PyAV says which they are.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.containers import moving_pictures, open_container, pictures_stream
from ecmf_pipeline.errors import NoVideoStream, UnreadableMedia
from ecmf_pipeline.orientation import Orientation, orientation_of

LEAST_READABLE = 0.9
"""A file of which less than this share of its declared length can be read was cut off: its rest is not guessed."""


_ROUNDING = 1e-3  # seconds


@dataclass(frozen=True, slots=True)
class _Header:
    """What is known before a film is read.

    Attributes:
        seconds: Declared length of the pictures, 0 where the container does not say.
        size: Width and height as they are stored, in pixels.
        orientation: How they are turned upright.
        is_only: Whether there is one stream of moving pictures.
    """

    seconds: float
    size: tuple[int, int]
    orientation: Orientation
    is_only: bool


class VideoReader(Protocol):
    """A file's pictures, by index."""

    def spans(self) -> NDArray[np.float64]:
        """Start and end of every picture in seconds, in order of time, (n, 2)."""
        ...

    def pictures(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """RGB pictures at increasing indices, (k, H, W, 3)."""
        ...


def open_video(path: Path, *, max_side: int, reader: Literal["decord", "pyav"]) -> VideoReader:
    """Open a file's first real video stream.

    Raises:
        NoVideoStream: When there is none.
        UnreadableMedia: When the file cannot be opened or is cut off.
    """
    header = _header(path)
    shrink = min(1.0, max_side / max(header.size))
    width, height = (max(2, round(side * shrink / 2) * 2) for side in header.size) if shrink < 1 else header.size

    def by_pyav() -> VideoReader:
        return PyAvVideo(path, (width, height), header.orientation)

    fits_decord = reader == "decord" and header.is_only and header.orientation.is_upright
    video = _decord(path, (width, height) if shrink < 1 else None, by_pyav) if fits_decord else None
    video = video or by_pyav()
    spans = video.spans()
    readable = float(spans[-1, 1] - spans[0, 0]) if len(spans) else 0.0
    if readable < LEAST_READABLE * header.seconds:
        raise UnreadableMedia(f"video is cut off: {readable:.2f} of {header.seconds:.2f} declared seconds are there")
    return video


def _decord(path: Path, size: tuple[int, int] | None, otherwise: Callable[[], VideoReader]) -> VideoReader | None:
    """The file in decord, None where its pictures would not be those that are shown."""
    try:
        video = DecordVideo(path, size, otherwise)
    except UnreadableMedia:  # PyAV has opened it: whether it can go on, too, it says itself
        return None
    spans = video.spans()
    # A clip that was cut without encoding it again begins with pictures that are decoded but not shown. decord
    # counts them and gives others for them: PyAV says which they are.
    return None if len(spans) and spans[0, 0] < -_ROUNDING else video


class DecordVideo:
    """Pictures by decord, single-threaded: clips are short, and the cores have other clips to read.

    Args:
        path: The file.
        size: Width and height to scale to, None to leave them.
        otherwise: Opens the same film in the reader whose pictures count where decord's FFmpeg complains.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None, otherwise: Callable[[], VideoReader]) -> None:
        import decord

        self._errors = (decord.DECORDError, RuntimeError)
        self._otherwise = otherwise
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
        other = self._otherwise()
        if len(other.spans()) != len(self._reader):
            raise UnreadableMedia(f"the pictures are damaged: {_first_line(complaint)}")
        return other.pictures(indices)


class PyAvVideo:
    """Pictures by PyAV."""

    def __init__(self, path: Path, size: tuple[int, int], orientation: Orientation) -> None:
        self._path = path
        self._size = size
        self._orientation = orientation
        with open_container(path) as container:
            stream: Any = pictures_stream(container)  # `_header` found one
            base = float(stream.time_base)
            packets: list[Any] = [
                packet for packet in container.demux(stream) if packet.pts is not None and not packet.is_discard
            ]
        shown = sorted((packet.pts * base, (packet.duration or 0) * base) for packet in packets)
        self._spans = np.array([(start, start + length) for start, length in shown], np.float64).reshape(-1, 2)

    def spans(self) -> NDArray[np.float64]:
        """Start and end of every picture in seconds, (n, 2)."""
        return self._spans

    def pictures(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """RGB pictures at increasing indices, (k, H, W, 3)."""
        pictures: list[NDArray[np.uint8]] = []
        wanted = set(indices)
        damaged: float | None = None
        with open_container(self._path) as container:
            frames: Iterator[Any] = container.decode(pictures_stream(container))
            for index, frame in enumerate(frames):
                if frame.is_corrupt:
                    damaged = frame.time or 0.0
                elif frame.key_frame:  # what follows no longer builds upon damage before it
                    damaged = None
                if index in wanted:
                    if damaged is not None:
                        raise UnreadableMedia(f"the pictures are damaged: the one at {damaged:.2f} s cannot be decoded")
                    pictures.append(self._rgb(frame))
                if len(pictures) == len(wanted):
                    break
        if len(pictures) < len(wanted):
            # A few streams hold one packet more than pictures; a repeat of the last one is what players show.
            if not pictures or len(wanted) - len(pictures) > 1:
                raise UnreadableMedia(f"PyAV: only {len(pictures)} of {len(wanted)} sampled pictures can be decoded")
            pictures.append(pictures[-1])
        return np.stack(pictures)

    def _rgb(self, frame: Any) -> NDArray[np.uint8]:
        """Upright and of one size: streams of video calls change theirs in the middle."""
        rgb: NDArray[np.uint8] = frame.reformat(*self._size, "rgb24", interpolation="BICUBIC").to_ndarray()
        return self._orientation.apply(rgb)


def _header(path: Path) -> _Header:
    with open_container(path) as container:
        stream = pictures_stream(container)
        if stream is None:
            raise NoVideoStream("the file has no video stream")
        seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        is_only = len(moving_pictures(container)) == 1
        size = (stream.codec_context.width, stream.codec_context.height)
        if not all(size):
            raise UnreadableMedia("the video stream has no size")
        first = _first_key_picture(container, stream)
        return _Header(seconds, size, Orientation() if first is None else orientation_of(first), is_only)


def _first_key_picture(container: Any, stream: Any) -> Any | None:
    """Decode one picture: PyAV tells of a display matrix with decoded pictures only. None when it cannot be decoded."""
    import av

    for packet in container.demux(stream):
        if packet.is_keyframe and packet.size:
            try:
                pictures = stream.codec_context.decode(packet) or stream.codec_context.decode(None)
            except av.FFmpegError:
                return None  # what that means for the clip shows when the sampled pictures are read
            return pictures[0] if pictures else None
    return None


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
