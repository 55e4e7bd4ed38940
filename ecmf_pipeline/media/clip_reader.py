"""Read the pictures and the sound of clips, each a file or a part of a longer recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, Half
from ecmf_pipeline.core.config import Frames
from ecmf_pipeline.core.errors import ClipError
from ecmf_pipeline.core.files import FileState
from ecmf_pipeline.media.audio import DecodedSound, read_audio, read_sound
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.recorded_video import RecordedVideo
from ecmf_pipeline.media.sampling import Sampling, pictures_at, read_frames_at, read_samplings, sample_pictures
from ecmf_pipeline.media.timeline import Span

_Opened = TypeVar("_Opened", DecodedSound, RecordedVideo)


@dataclass(slots=True)
class _Recording:
    """What was read of a recording, or the error of it."""

    path: Path
    state: FileState
    video: RecordedVideo | ClipError | None = None
    sound: DecodedSound | ClipError | None = None


class ClipReader:
    """Read clips; of the recording that was read last, the decoder and the sound are kept for its next span.

    If the spans of a recording are read in order, all of them cost about one decode. The sound of a recording takes 230
    MB for one hour. The share `MediaConfig.least_readable` applies to files: a recording that was cut off is used as
    far as it can be read.

    Args:
        config: How clips are read.
    """

    def __init__(self, config: MediaConfig) -> None:
        self._config = config
        self._whole = config.model_copy(update={"least_readable": 0.0})
        self._recording: _Recording | None = None

    def samplings(self, path: Path, span: Span, counts: Sequence[Frames]) -> list[Sampling]:
        """Read the frames of several samplings of a clip in one decoding pass.

        Args:
            path: The file.
            span: The span of the file.
            counts: See `read_samplings`.

        Returns:
            See `read_samplings`; the times count from the start of the span.

        Raises:
            ClipError: See `read_samplings`; also if no picture is shown in the span.
        """
        if span.is_whole:
            samplings = read_samplings(path, self._config, counts)
        else:
            samplings = sample_pictures(self._video(path).sample, counts, span)
        return [replace(sampling, frames=crop_half(sampling.frames, span.half)) for sampling in samplings]

    def frames_at(self, path: Path, span: Span, times: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Read the frames of a clip at given times, as returned by `samplings`, uint8 (T, H, W, 3).

        Raises:
            ClipError: See `read_frames_at`.
        """
        if span.is_whole:
            frames = read_frames_at(path, self._config, times)
        else:
            frames = pictures_at(self._video(path).sample, times, span)
        return crop_half(frames, span.half)

    def sound(self, path: Path, span: Span) -> NDArray[np.float32]:
        """Read the sound of a clip: of the decoded sound of the whole file, the samples in the span, float32 (n,).

        Raises:
            ClipError: See `read_audio` and `DecodedSound.part`.
        """
        if span.is_whole:
            return read_audio(path, self._config)
        recording = self._opened(path)
        if recording.sound is None:
            recording.sound = _result_of(lambda: read_sound(path, self._whole))
        return _unless_error(recording.sound).part(span)

    def _video(self, path: Path) -> RecordedVideo:
        recording = self._opened(path)
        if recording.video is None:
            recording.video = _result_of(lambda: RecordedVideo(path, self._config.max_side))
        return _unless_error(recording.video)

    def _opened(self, path: Path) -> _Recording:
        state = FileState.of(path)
        if self._recording is None or (self._recording.path, self._recording.state) != (path, state):
            self._recording = None  # before as much is read again
            self._recording = _Recording(path, state)
        return self._recording


def span_of(clip: Clip) -> Span:
    """Return the part of its media file that a clip is."""
    return Span(clip.start, clip.end, clip.half)


def crop_half(pictures: NDArray[np.uint8], half: Half) -> NDArray[np.uint8]:
    """Return a half of pictures, uint8 (..., H, W, 3); without the middle column if the width is odd."""
    width = pictures.shape[-2] // 2
    if not half or not width:
        return pictures
    cropped = pictures[..., :width, :] if half is Half.LEFT else pictures[..., -width:, :]
    return np.ascontiguousarray(cropped)  # face detectors need contiguous pictures


def _result_of(read: Callable[[], _Opened]) -> _Opened | ClipError | None:
    try:
        return read()
    except ClipError as error:
        if error.is_transient:
            raise
        return error


def _unless_error(opened: _Opened | ClipError | None) -> _Opened:
    if isinstance(opened, ClipError):
        raise opened.with_traceback(None)
    assert opened is not None
    return opened
