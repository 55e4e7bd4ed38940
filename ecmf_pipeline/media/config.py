"""Params of the sampling of clips; this module imports no heavy library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ecmf_pipeline.core.config import Config

SAMPLE_RATE = 16_000
"""Hertz; speech models are trained on this rate."""


class MediaConfig(Config):
    """Params of the sampling of clips.

    Attributes:
        frames: Number of frames of each clip, uniform in time: the middles of as many equal spans.
        max_side: Pictures with a longer side are scaled down to this number of pixels while they are decoded.
        reader: ``decord``, ``pyav`` or ``auto``. With ``decord``, decord reads plain 8-bit H.264, where its frames are
            the same as those of PyAV; PyAV reads everything else. ``auto`` is the faster reader: ``pyav``.
        least_readable: A clip is quarantined as truncated if less than this share of its declared length can be read.
    """

    frames: int = Field(16, gt=0)
    max_side: int = Field(1280, gt=63)
    reader: Literal["auto", "decord", "pyav"] = "auto"
    least_readable: float = Field(0.9, ge=0, le=1)
