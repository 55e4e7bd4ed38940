"""What the `ablate` stage wrote, as the report reads it: any part may be absent or null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from ecmf_pipeline.errors import InputError
from ecmf_pipeline.report.evaluation import Difference, Part, without_null


class Reference(Part):
    """The fusion that all is compared with."""

    kind: str = ""
    modalities: tuple[str, ...] = ()
    clips: int = 0
    weighted_f1: float | None = None


class VariantRow(Difference):
    """One variant, against the reference on the same clips."""

    table: str
    name: str
    weighted_f1: float


class DamageRow(Difference):
    """The reference on inputs of which one modality is damaged; ``trained_without`` is a model that never had it."""

    modality: str
    damage: str
    weighted_f1: float
    trained_without: float | None = None


class Skipped(Part):
    """A variant that could not be trained."""

    name: str
    why: str


class Spread(Part):
    """How one modality's weights are spread over the clips."""

    mean: float
    std: float
    q05: float
    median: float
    q95: float
    heaviest: float


class Weights(Part):
    """The modality weights of the reference, out of fold."""

    modalities: dict[str, Spread] = Field(default_factory=dict)
    effective_modalities: float | None = None
    warnings: tuple[str, ...] = ()


class Optimistic(Part):
    """The figure of the baseline's protocol."""

    weighted_f1: float


class Ablation(Part):
    """The whole file."""

    judged_by: Literal["gold", "given"] | None = None
    reference: Reference = Reference()
    variants: tuple[VariantRow, ...] = ()
    robustness: tuple[DamageRow, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    weights: Weights = Weights()
    mertools_protocol: Optimistic | None = None


def read_ablation(metrics: Mapping[str, Any] | None) -> Ablation | None:
    """The metrics with their types checked; None where there are none.

    Raises:
        InputError: When a value is missing or not of the type it should be.
    """
    if metrics is None:
        return None
    try:
        return Ablation.model_validate(without_null(metrics))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"the ablation's {key}: {first['msg']}", "run `ecmf-pipe ablate` again") from error
