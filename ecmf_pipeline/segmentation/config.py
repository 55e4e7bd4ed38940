"""Settings of segmentation. This module imports no heavy library."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ecmf_pipeline.core.config import Config

RECIPE = 2
"""Incremented with every code change that changes the cached cues or speech."""


class SegmentConfig(Config):
    """Settings of the `segment` stage, which cuts recordings that are longer than ``max_seconds`` into clips.

    Attributes:
        by: ``subtitles``: a clip for each cue of the subtitle file beside a recording, or of the subtitles in it;
            ``speech``: a clip for each utterance, found by a voice filter (Silero). None: each file is one clip.
        max_seconds: Maximum length of a clip. Longer utterances are cut at their longest pauses, longer cues into equal
            parts. Files of at most this length are not cut.
        min_seconds: Minimum length of a clip. Shorter cues and utterances are widened if there is room, else dropped.
        pad: Seconds that are added before and after, at most half of the time to the neighbours.
        pause: Seconds of silence that end an utterance.
        threshold: Probability above which the voice filter takes sound for speech.
        workers: Number of worker processes. None: one for each core; 0: the main process only.
        clip_timeout: Seconds that one recording may take. One that exceeds it twice is quarantined until this value is
            raised.
        max_quarantined: Share of recordings that may be unusable before the stage ends with exit code 1. Of fewer than
            20, three may be.
    """

    by: Literal["subtitles", "speech"] | None = None
    max_seconds: float = Field(15.0, ge=1)
    min_seconds: float = Field(0.6, gt=0)
    pad: float = Field(0.1, ge=0)
    pause: float = Field(0.4, gt=0)
    threshold: float = Field(0.5, gt=0, lt=1)
    workers: int | None = Field(None, ge=0)
    clip_timeout: float = Field(600.0, gt=0)
    max_quarantined: float = Field(0.2, ge=0, le=1)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.min_seconds > self.max_seconds / 2:
            raise ValueError("min_seconds must be at most half of max_seconds")
        return self

    def settings(self) -> dict[str, Any]:
        """Return the settings that change the cached cues and speech; cutting is not cached."""
        if self.by != "speech":
            return {"by": self.by, "recipe": RECIPE}
        return {"by": self.by, "threshold": self.threshold, "recipe": RECIPE}
