"""Base class of all configuration sections, and configuration types that several packages share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Frames = Annotated[int, Field(gt=0)] | Literal["all"]
"""Number of frames of a clip that an encoder reads."""


class Config(BaseModel):
    """One section of params.yaml: immutable; an unknown key is an error; ``~/`` at the start of a text is expanded."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _expand_paths(cls, values: Any) -> Any:
        return {key: _expand(value) for key, value in values.items()} if isinstance(values, dict) else values


def _expand(value: Any) -> Any:
    """Expand the home folder in a path, or in a list or mapping of paths; sections expand their own."""
    if isinstance(value, str):
        return str(Path(value).expanduser()) if value == "~" or value.startswith("~/") else value
    if isinstance(value, list | tuple):
        return [_expand(item) for item in value]
    return {key: _expand(item) for key, item in value.items()} if isinstance(value, dict) else value


Pool = Literal["mean", "max", "mean_std"]
"""How the rows of a clip are pooled to one vector."""


PoolOrFrames = Literal["mean", "max", "mean_std", "frames"]
"""`Pool`, or ``frames`` to keep the rows as a sequence."""
