"""Frames and samples into the bytes of an mp4 file, the same for the same input."""

from __future__ import annotations

import io
from collections.abc import Iterable

import av
import cv2
import numpy as np
from numpy.typing import NDArray

AAC_FRAME = 1024
"""Samples that one AAC packet holds."""


def encode_mp4(
    frames: Iterable[NDArray[np.uint8]],
    samples: NDArray[np.float32] | None,
    *,
    frame_rate: int,
    sample_rate: int,
    size: int,
) -> bytes:
    """Encode H.264 and, unless ``samples`` is None, AAC.

    Args:
        frames: RGB, uint8 (size, size, 3) each.
        samples: Mono sound within -1..1, (n,); None for a file without an audio stream.
        frame_rate: Frames a second.
        sample_rate: Samples a second.
        size: Side of a frame, in pixels.

    Returns:
        The file. It holds no date and no version of the software that wrote it.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=frame_rate)
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        # Without cpu-independent, x264 165 now and then gives other bytes for the same frames, even on one thread.
        video.options = {
            "crf": "23",
            "preset": "veryfast",
            "threads": "1",
            "flags": "+bitexact",
            "x264-params": "cpu-independent=1",
        }
        audio = None
        if samples is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono")
            audio.bit_rate = 64_000
            audio.options = {"flags": "+bitexact", "threads": "1"}
        for pixels in frames:
            planes = cv2.cvtColor(pixels, cv2.COLOR_RGB2YUV_I420)
            container.mux(video.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(video.encode(None))
        if audio is not None and samples is not None:
            for start in range(0, len(samples), AAC_FRAME):
                block = samples[None, start : start + AAC_FRAME]
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = sample_rate, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return file.getvalue()
