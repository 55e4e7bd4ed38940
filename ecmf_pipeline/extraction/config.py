"""Configuration of extraction."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.config import Config


def _validate_names(value: object) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError("must be the name of an entry under `encoders`, or a list of names")
    if len(set(names)) < len(names):
        raise ValueError("contains an encoder twice")
    return names


EncoderNames = Annotated[
    tuple[str, ...],
    BeforeValidator(_validate_names),
    PlainSerializer(lambda names: names[0] if len(names) == 1 else names),
]
"""One or several entries under ``encoders``."""


class ExtractConfig(Config):
    """The encoders of each modality, and the settings of the extraction loop.

    Attributes:
        encoders: For each modality in use, the name of an entry under ``encoders``, or a list of names. Each of several
            encoders has features, a branch and a weight of its own in the fusion, named ``<modality>.<encoder>``. A
            modality that is left out is not used by any stage.
        batch_size: Clips decoded and encoded together; larger values need more memory. A finished batch is durable, so
            a crash loses at most one batch for each worker.
        part_size: Clips stored together in one part of a store.
        max_quarantined: Share of the clips of a modality that may be bad before the stage stops with exit code 1. Of
            fewer than 20 clips, three may be bad.
        device: ``auto`` (CUDA if available), ``cpu``, ``cuda`` or ``cuda:<n>``.
        workers: Number of worker processes, each with one thread. None: one for each GPU if GPUs are used, else one for
            each core. 0: run in the main process; a clip that crashes a decoder then ends the run.
        openers: Number of additional processes that decode and prepare clips for the workers, which then only run the
            networks (Linux only). None: if GPUs are used, the cores of each GPU less one, at least two; else 0, which
            is faster on a CPU. Must be 0 if workers is 0.
        clip_timeout: Seconds that one clip may take to be read, and on average to be encoded. A clip that exceeds it
            twice is quarantined until this value is raised.
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
            raise ValueError("openers must be 0 if workers is 0")
        return self
