"""Read pictures with decord, in forward order; only for streams in which it returns the same pixels as PyAV."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.media.pyav_reader import ChoosePictures, Pictures, PyAvVideo


def read_with_decord(path: Path, video: PyAvVideo, choose: ChoosePictures) -> Pictures:
    """Read the chosen pictures with one thread: clips are short, and other cores read other clips.

    PyAV reads them if decord cannot, or reports an error.

    Args:
        path: The file.
        video: The same file in PyAV, which gives the times; `PyAvVideo.matches_decord` must be true.
        choose: Chooses the pictures.
    """
    import decord

    indices = choose(video.timeline)
    errors = (decord.DECORDError, RuntimeError)
    try:
        with _captured_native_stderr() as captured:
            # An absolute path prevents FFmpeg from parsing a colon in a name as a protocol.
            reader = decord.VideoReader(str(path.absolute()), num_threads=1)
            is_same_film = len(reader) == len(video.timeline)
            rgb: NDArray[np.uint8] = (
                reader.get_batch(indices.tolist()).asnumpy() if is_same_film else np.empty(0, np.uint8)
            )
    except errors:
        return video.sample(choose)
    if not is_same_film or captured[0] or rgb.shape[1:3] != video.size[::-1]:
        return video.sample(choose)
    return Pictures(video.timeline, indices, rgb)


@contextmanager
def _captured_native_stderr() -> Iterator[list[str]]:
    """Capture the output of native code to file descriptor 2; the list holds it as one text after the block."""
    captured: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield captured
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            captured.append(file.read().decode(errors="replace").strip())
