"""Schemas of the metrics that `evaluate` and `ablate` write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.predictions import Basis


class MetricsPart(BaseModel):
    """Part of a metrics file; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class ClassScores(MetricsPart):
    """Scores of one label."""

    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    support: int = 0


class Scores(MetricsPart):
    """Scores over a set of clips, as returned by `arrays.scores`.

    The model could predict ``answered`` of them; for the others the most frequent label counts.
    """

    clips: int = 0
    answered: int | None = None
    weighted_f1: float | None = None
    accuracy: float | None = None
    per_class: dict[str, ClassScores] = {}


class TwoModels(MetricsPart):
    """The fusion model trained on given labels and the one trained on refined labels."""

    given: Scores | None = None
    refined: Scores | None = None


class Difference(MetricsPart):
    """Difference in weighted F1 with its 95% bootstrap interval."""

    difference: float | None = None
    low: float | None = None
    high: float | None = None


class FusionDifference(Difference):
    """Difference between fusion and best single modality.

    ``model`` names the training labels of the fusion model, if recorded.
    """

    best: str = ""
    model: Literal["given", "refined"] | None = None


class LabelAccuracy(MetricsPart):
    """Accuracy of labels over clips with a known true label."""

    clips: int = 0
    accuracy: float | None = None


class LabelScores(MetricsPart):
    """Training labels before and after refinement, compared with gold labels."""

    given: LabelAccuracy | None = None
    refined: LabelAccuracy | None = None
    fixed: int = 0
    fixed_by_verdicts: int = 0
    broken: int = 0
    broken_by_verdicts: int = 0
    dropped_wrong: int = 0
    dropped_right: int = 0
    pseudo: LabelAccuracy | None = None
    pseudo_by_verdicts: int = 0


class Confusion(MetricsPart):
    """Confusion counts, (C, C); rows are true labels, columns predicted labels."""

    labels: list[str] = []
    counts: list[list[int]] = []


class ZeroShotSource(MetricsPart):
    """A source of votes that saw no label of the corpus."""

    votes: int = 0
    weight: float | None = None


class ZeroShot(MetricsPart):
    """Labels that nothing has verified; see `evaluation.zero_shot.describe`."""

    clips: int = 0
    labelled: int = 0
    abstained: int = 0
    verdicts: int = 0
    verdicts_needed: int = 0
    verdicts_agreed: int = 0
    agreement: float | None = None
    confidence: float | None = None
    labels: dict[str, int] = {}
    sources: dict[str, ZeroShotSource] = {}


class PlainModel(MetricsPart):
    """A plain model on the same features; ``fusion_over`` is the paired difference of the fusion to it."""

    weighted_f1: float | None = None
    fusion_over: Difference | None = None


class PlainModels(MetricsPart):
    """Plain models as yardsticks of the fusion, by name; see `evaluation.plain`."""

    models: dict[str, PlainModel] = {}


class Evaluation(MetricsPart):
    """Content of the metrics file of `evaluate`."""

    basis: Basis = Basis.GIVEN
    zero_shot: ZeroShot | None = None

    weighted_f1: float | None = None
    interval: tuple[float, float] | None = None
    accuracy: float | None = None
    clips: int = 0
    judged_by: Literal["gold", "given"] | None = None
    model: Literal["refined", "given", "zero-shot"] | None = None
    fusion: TwoModels | None = None
    modalities: dict[str, Scores | None] = {}
    by_split: dict[str, TwoModels | None] = {}
    fusion_over_best_modality: FusionDifference | None = None
    refined_over_given: Difference | None = None
    labels: LabelScores | None = None
    plain: PlainModels | None = None
    confusion: Confusion | None = None
    no_modality: int = 0

    @property
    def headline(self) -> Scores | None:
        """Scores of the fusion model that the headline reports."""
        if self.fusion is None:
            return None
        return self.fusion.refined if self.model in {"refined", "zero-shot"} else self.fusion.given


class Reference(MetricsPart):
    """The fusion that variants are compared with."""

    kind: str = ""
    modalities: tuple[str, ...] = ()
    clips: int = 0
    weighted_f1: float | None = None


class VariantRow(Difference):
    """One variant compared with the reference on the same clips."""

    table: str
    name: str
    weighted_f1: float


class DamageRow(Difference):
    """The reference with one modality damaged; ``trained_without`` is the score of a model trained without it."""

    modality: str
    damage: str
    weighted_f1: float
    trained_without: float | None = None


class Skipped(MetricsPart):
    """A variant that could not be trained."""

    name: str
    why: str


class Spread(MetricsPart):
    """Distribution of one modality's weights over the clips."""

    mean: float
    std: float
    q05: float
    median: float
    q95: float
    heaviest: float


class Weights(MetricsPart):
    """Out-of-fold modality weights of the reference."""

    modalities: dict[str, Spread] = Field(default_factory=dict)
    effective_modalities: float | None = None
    warnings: tuple[str, ...] = ()


class Optimistic(MetricsPart):
    """Score with the baseline's protocol."""

    weighted_f1: float


class SetScore(MetricsPart):
    """A set of encoders, and its weighted F1 on training labels."""

    kept: tuple[str, ...]
    weighted_f1: float


class Smallest(Difference):
    """The smallest set of encoders whose score is within ``margin`` of the best, compared with all encoders."""

    kept: tuple[str, ...]
    margin: float
    weighted_f1: float
    path: tuple[SetScore, ...] = ()


class Ablation(MetricsPart):
    """Content of the metrics file of `ablate`."""

    basis: Basis = Basis.GIVEN
    judged_by: Literal["gold", "given"] | None = None
    reference: Reference = Reference()
    variants: tuple[VariantRow, ...] = ()
    robustness: tuple[DamageRow, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    weights: Weights = Weights()
    smallest: Smallest | None = None
    mertools_protocol: Optimistic | None = None


def read_evaluation(metrics: Mapping[str, Any] | None) -> Evaluation:
    """Validate the metrics of `evaluate`; null values count as absent.

    Raises:
        InputError: If a value has the wrong type.
    """
    return _validate(Evaluation, metrics or {}, "evaluate")


def read_ablation(metrics: Mapping[str, Any] | None) -> Ablation | None:
    """Validate the metrics of `ablate`; None if there are none.

    Raises:
        InputError: If a value is missing or has the wrong type.
    """
    return None if metrics is None else _validate(Ablation, metrics, "ablate")


_Metrics = TypeVar("_Metrics", bound=MetricsPart)


def _validate(schema: type[_Metrics], metrics: Mapping[str, Any], made_by: str) -> _Metrics:
    try:
        return schema.model_validate(_without_null(metrics))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"metrics of `{made_by}`, {key}: {first['msg']}",
            "run the stage that writes them",
            command=f"ecmf-pipe {made_by}",
        ) from error


def _without_null(value: Any) -> Any:
    """Remove keys whose value is null."""
    if isinstance(value, Mapping):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return value
