"""Settings of the sample corpus."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from ecmf_pipeline.core.config import Config


class SampleConfig(Config):
    """Size and difficulty of the sample corpus.

    Attributes:
        labelled: Number of clips with a given label.
        unlabeled: Number of clips without label; they are the candidates.
        speakers: Number of speakers; face shape, lighting, camera and voice differ between speakers.
        noise: Share of wrong given labels.
        ambiguous: Share of transcripts that fit any emotion.
        weak: Share of faces, and independently of voices, that hardly express the emotion.
        silent: Share of clips without audio stream.
        untranscribed: Share of clips without transcript.
        min_seconds: Duration of the shortest clip, in seconds.
        max_seconds: Duration of the longest clip, in seconds.
        size: Side of the square frame, in pixels; even.
        seed: Random seed.
    """

    labelled: int = Field(default=96, ge=1, le=50_000)
    unlabeled: int = Field(default=48, ge=0, le=50_000)
    speakers: int = Field(default=8, ge=1)
    noise: float = Field(default=0.15, ge=0, lt=1)
    ambiguous: float = Field(default=0.25, ge=0, le=1)
    weak: float = Field(default=0.20, ge=0, le=1)
    silent: float = Field(default=0.04, ge=0, le=0.5)
    untranscribed: float = Field(default=0.04, ge=0, le=0.5)
    min_seconds: float = Field(default=2.0, ge=0.5)
    max_seconds: float = Field(default=4.0, le=20)
    size: int = Field(default=256, ge=128, le=1024, multiple_of=2)
    seed: int = Field(default=7, ge=0)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.max_seconds < self.min_seconds:
            raise ValueError("max_seconds is less than min_seconds")
        return self
