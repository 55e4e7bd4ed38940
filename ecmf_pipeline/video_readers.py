"""decord and PyAV behind one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.containers import open_container, pictures_stream
from ecmf_pipeline.errors import NoVideoStream, UnreadableMedia

LEAST_READABLE = 0.9
"""A file of which less than this share of its declared length can be read was cut off: its rest is not guessed."""


_ROUNDING = 1e-3  # seconds


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
    seconds, width, height = _header(path)
    shrink = min(1.0, max_side / max(width, height))
    size = (max(2, round(width * shrink / 2) * 2), max(2, round(height * shrink / 2) * 2)) if shrink < 1 else None
    video: VideoReader = DecordVideo(path, size) if reader == "decord" else PyAvVideo(path, size)
    spans = video.spans()
    if reader == "decord" and len(spans) and spans[0, 0] < -_ROUNDING:
        # A clip that was cut without encoding it again begins with pictures that are decoded but not shown. decord
        # counts them and gives others for them: PyAV says which they are.
        video = PyAvVideo(path, size)
        spans = video.spans()
    readable = float(spans[-1, 1] - spans[0, 0]) if len(spans) else 0.0
    if readable < LEAST_READABLE * seconds:
        raise UnreadableMedia(f"video is cut off: {readable:.2f} of {seconds:.2f} declared seconds are there")
    return video


class DecordVideo:
    """Pictures by decord, single-threaded: clips are short, and the cores have other clips to read."""

    def __init__(self, path: Path, size: tuple[int, int] | None) -> None:
        import decord

        self._errors = (decord.DECORDError, RuntimeError)
        width, height = size or (-1, -1)
        try:
            self._reader = decord.VideoReader(str(path), num_threads=1, width=width, height=height)
        except self._errors as error:
            raise UnreadableMedia(f"decord: {_first_line(error)}") from error

    def spans(self) -> NDArray[np.float64]:
        """Start and end of every picture in seconds, (n, 2)."""
        count = len(self._reader)
        return np.asarray(self._reader.get_frame_timestamp(range(count)), np.float64).reshape(count, 2)

    def pictures(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """RGB pictures at increasing indices, (k, H, W, 3)."""
        try:
            pictures: NDArray[np.uint8] = self._reader.get_batch(list(indices)).asnumpy()
        except self._errors as error:
            raise UnreadableMedia(f"decord: {_first_line(error)}") from error
        return pictures


class PyAvVideo:
    """Pictures by PyAV."""

    def __init__(self, path: Path, size: tuple[int, int] | None) -> None:
        self._path = path
        self._size = size
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
        with open_container(self._path) as container:
            for index, frame in enumerate(container.decode(pictures_stream(container))):
                if index in wanted:
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
        width, height = self._size or (frame.width, frame.height)
        rgb: NDArray[np.uint8] = frame.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray()
        return rgb


def _header(path: Path) -> tuple[float, int, int]:
    """Declared seconds of pictures (0 where the container does not say), width and height."""
    with open_container(path) as container:
        stream = pictures_stream(container)
        if stream is None:
            raise NoVideoStream("the file has no video stream")
        if not stream.codec_context.width or not stream.codec_context.height:
            raise UnreadableMedia("the video stream has no size")
        seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        return seconds, stream.codec_context.width, stream.codec_context.height


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
