"""The base of every room's configuration, frozen and strict about its keys, and types that several rooms share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Frames = Annotated[int, Field(gt=0)] | Literal["all"]
"""Pictures of a clip that an encoder reads."""


class Config(BaseModel):
    """One section of params.yaml: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


Pool = Literal["mean", "max", "mean_std"]
"""How a clip's rows become one vector."""


PoolOrFrames = Literal["mean", "max", "mean_std", "frames"]
"""The same, or ``frames``: they stay a sequence."""
