"""What can be set about the evaluation."""

from __future__ import annotations

from pydantic import Field

from ecmf_pipeline.config import Config


class EvaluateConfig(Config):
    """How sure the evaluation is.

    Attributes:
        draws: Bootstrap samples of each interval.
        seed: Seed of the bootstrap.
    """

    draws: int = Field(1000, ge=100)
    seed: int = Field(7, ge=0)
