"""Settings of how clips are sampled; importing them loads nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ecmf_pipeline.core.config import Config

SAMPLE_RATE = 16_000
"""Hertz; what speech models are trained on."""


class MediaConfig(Config):
    """How clips are sampled.

    Attributes:
        frames: Pictures a clip, uniform in time: the middles of as many equal spans.
        max_side: Longer pictures are scaled down to this many pixels while they are decoded.
        reader: ``decord``, ``pyav``, or ``auto``: decord's pictures where it is installed, by whatever reads them with
            the least work, else PyAV's.
    """

    frames: int = Field(16, gt=0)
    max_side: int = Field(1280, gt=63)
    reader: Literal["auto", "decord", "pyav"] = "auto"
