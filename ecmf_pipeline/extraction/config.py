"""What can be set about extraction."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.config import Config


def _names(value: object) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError("name an entry under `encoders`, or a list of several")
    if len(set(names)) < len(names):
        raise ValueError("an encoder is named twice")
    return names


EncoderNames = Annotated[
    tuple[str, ...], BeforeValidator(_names), PlainSerializer(lambda names: names[0] if len(names) == 1 else names)
]
"""One or several entries under ``encoders``; the rows of several stand side by side, in this order."""


class ExtractConfig(Config):
    """Which encoder serves which modality, and how the loop runs.

    Attributes:
        encoders: For each modality in use, the name of an entry under ``encoders``, or a list of names: their rows then
            stand side by side. A modality that is left out is not used anywhere.
        batch_size: Clips decoded and encoded together; more need more memory. A batch is durable as soon as it is done:
            it is what a crash costs each worker at most.
        part_size: Clips that stand together in one part of a store.
        max_quarantined: Share of a modality's clips that may be bad before the stage stops with exit code 1.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:<n>``.
        workers: Processes that work side by side, each with one thread. None: one for each GPU where they are used,
            else one for each core; 0: none, all is done in the main process, and a clip that makes a decoder crash
            ends the run.
        openers: Further processes that decode and prepare clips for the workers, which then only run the networks
            (Linux). None: where GPUs are used the cores that there are for each, less one, at least two; else 0, the
            workers do it themselves, which on a CPU is faster. Not with 0 workers.
        clip_timeout: Seconds that one clip may take to read, and on average to encode. One that takes longer, twice, is
            quarantined.
    """

    encoders: dict[Modality, EncoderNames] = Field(
        default={
            Modality.GLOBAL: ("efficientnet_lite0",),
            Modality.FACE: ("mini_xception",),
            Modality.AUDIO: ("egemaps",),
            Modality.TEXT: ("minilm",),
        },
        min_length=1,
    )
    batch_size: int = Field(8, gt=0)
    part_size: int = Field(1024, gt=0)
    max_quarantined: float = Field(0.2, ge=0, le=1)
    device: str = Field("auto", min_length=1)
    workers: int | None = Field(None, ge=0)
    openers: int | None = Field(None, ge=0)
    clip_timeout: float = Field(120.0, gt=0)

    @model_validator(mode="after")
    def _check_openers(self) -> Self:
        if self.openers and self.workers == 0:
            raise ValueError("openers: there are none without workers (workers: 0)")
        return self
