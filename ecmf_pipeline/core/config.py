"""Base class of all configuration sections, and configuration types that several packages share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Frames = Annotated[int, Field(gt=0)] | Literal["all"]
"""Number of frames of a clip that an encoder reads."""


class Config(BaseModel):
    """One section of params.yaml: immutable; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


Pool = Literal["mean", "max", "mean_std"]
"""How the rows of a clip are pooled to one vector."""


PoolOrFrames = Literal["mean", "max", "mean_std", "frames"]
"""`Pool`, or ``frames`` to keep the rows as a sequence."""
