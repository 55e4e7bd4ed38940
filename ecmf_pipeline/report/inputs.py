"""All that a report is made of, already loaded: plain data, no paths.

First the results of a run, then the schemas of what `evaluate` and `ablate` measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.labels.refine import Decision
from ecmf_pipeline.runner.quarantine import QuarantineEntry


@dataclass(frozen=True, slots=True)
class PredictedClip:
    """What the fused model says of one clip.

    Attributes:
        label: The predicted label; empty when there is no prediction.
        probability: Probability of that label; None when there is no prediction.
        modality_weights: Share of each modality, 0 to 1; NaN, or no entry, where nothing could be judged by.
        flag: Why there is no prediction, as in ``no usable modality``; empty when there is one.
    """

    clip_id: str
    split: str
    label: str
    probability: float | None = None
    modality_weights: Mapping[str, float] = field(default_factory=dict)
    flag: str = ""


@dataclass(frozen=True, slots=True)
class FaceSheet:
    """One clip's contact sheet.

    Attributes:
        why: What the clip was chosen for.
        about: What the sheet shows, in words.
        picture: JPEG, (height, width) pixels; empty when there is none.
        problem: Why there is no picture; empty when there is one.
    """

    clip_id: str
    why: str
    about: str = ""
    picture: bytes = b""
    width: int = 0
    height: int = 0
    problem: str = ""


@dataclass(frozen=True)
class ReportInput:
    """The results of a run. What is absent is empty or None, and the report says that it is.

    Attributes:
        corpus: ``kind``, ``root``, ``labels`` (in the order of the model's outputs), ``synthetic``.
        index: Metrics of the `index` stage; of them only ``findings`` (count by kind) is read.
        findings: What is odd about the corpus: ``kind``, ``clip_id``, ``message``.
        coverage: For each modality, how many clips are ``done``, ``absent``, ``quarantined``, ``missing``.
        provenance: For each modality, where its features come from; see docs/store.md. None where a store is silent.
        computed_with: For each modality, the combinations of library versions that computed its rows; an empty one
            stands for rows of which nobody knows.
        evaluate: The metrics of the `evaluate` stage; see `Evaluation`.
        ablate: The metrics of the `ablate` stage; see `Ablation`. None where it did not run.
        vote_sources: How each source of votes fares, as the `evaluate` stage found out; None where it did not look.
        refined: One entry a clip that refinement looked at; empty when it did not run.
        no_face_sheets: Why there are none; empty when there are some, or none were asked for.
    """

    corpus: Mapping[str, Any]
    clips: Sequence[Clip] = ()
    index: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Mapping[str, Any]] = ()
    quarantine: Sequence[QuarantineEntry] = ()
    coverage: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    encoders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    provenance: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    computed_with: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)
    evaluate: Mapping[str, Any] | None = None
    ablate: Mapping[str, Any] | None = None
    vote_sources: Mapping[str, Any] | None = None
    predictions: Sequence[PredictedClip] = ()
    refined: Sequence[Decision] = ()
    face_sheets: Sequence[FaceSheet] = ()
    no_face_sheets: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """The classes, in the order of the model's outputs."""
        return [str(label) for label in self.corpus.get("labels") or ()]

    @property
    def synthetic(self) -> bool:
        """Whether the corpus is generated."""
        return bool(self.corpus.get("synthetic"))


class Part(BaseModel):
    """A part of the metrics; keys that the report does not know are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class ClassScores(Part):
    """Scores of one label."""

    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    support: int = 0


class Scores(Part):
    """Scores over some clips, as `arrays.scores` gives them."""

    clips: int = 0
    weighted_f1: float | None = None
    accuracy: float | None = None
    per_class: dict[str, ClassScores] = {}


class TwoModels(Part):
    """The fused model trained on the given labels, and the one trained on the refined labels."""

    given: Scores | None = None
    refined: Scores | None = None


class Difference(Part):
    """A difference in weighted F1 with its 95% bootstrap interval."""

    difference: float | None = None
    low: float | None = None
    high: float | None = None


class FusionDifference(Difference):
    """Fusion minus the best single modality; ``model`` says which fused model, where that is stated."""

    best: str = ""
    model: Literal["given", "refined"] | None = None


class LabelAccuracy(Part):
    """Accuracy of labels over the clips whose true label is known."""

    clips: int = 0
    accuracy: float | None = None


class LabelScores(Part):
    """How the training labels fared under refinement, judged by gold labels."""

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


class Confusion(Part):
    """Confusion counts, (C, C): rows are true labels, columns predicted ones."""

    labels: list[str] = []
    counts: list[list[int]] = []


class Evaluation(Part):
    """The whole file."""

    weighted_f1: float | None = None
    accuracy: float | None = None
    clips: int = 0
    judged_by: Literal["gold", "given"] | None = None
    model: Literal["refined", "given"] | None = None
    fusion: TwoModels | None = None
    modalities: dict[str, Scores | None] = {}
    by_split: dict[str, TwoModels | None] = {}
    fusion_over_best_modality: FusionDifference | None = None
    refined_over_given: Difference | None = None
    labels: LabelScores | None = None
    confusion: Confusion | None = None
    no_modality: int = 0

    @property
    def headline(self) -> Scores | None:
        """The scores of the fused model that the headline is about."""
        if self.fusion is None:
            return None
        return self.fusion.refined if self.model == "refined" else self.fusion.given


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


def read_evaluation(metrics: Mapping[str, Any] | None) -> Evaluation:
    """The metrics of `evaluate` with their types checked; null counts as absent.

    Raises:
        InputError: When a value is not of the type it should be.
    """
    return _checked(Evaluation, metrics or {}, "evaluate")


def read_ablation(metrics: Mapping[str, Any] | None) -> Ablation | None:
    """The metrics of `ablate` with their types checked; None where there are none.

    Raises:
        InputError: When a value is missing or not of the type it should be.
    """
    return None if metrics is None else _checked(Ablation, metrics, "ablate")


_Metrics = TypeVar("_Metrics", bound=Part)


def _checked(schema: type[_Metrics], metrics: Mapping[str, Any], made_by: str) -> _Metrics:
    try:
        return schema.model_validate(_without_null(metrics))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"metrics of `{made_by}`, {key}: {first['msg']}", f"run `ecmf-pipe {made_by}` again"
        ) from error


def _without_null(value: Any) -> Any:
    """Metrics without the keys whose value is null."""
    if isinstance(value, Mapping):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return value
