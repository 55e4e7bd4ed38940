"""The metrics of the `evaluate` stage as the report reads them: any part may be absent or null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ecmf_pipeline.errors import InputError


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
    """Scores over some clips, as `metrics.scores` gives them."""

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


def read_evaluation(metrics: Mapping[str, Any] | None) -> Evaluation:
    """The metrics with their types checked; null counts as absent.

    Raises:
        InputError: When a value is not of the type it should be.
    """
    try:
        return Evaluation.model_validate(without_null(metrics or {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"the evaluation's {key}: {first['msg']}", "run `ecmf-pipe evaluate` again") from error


def without_null(value: Any) -> Any:
    """Metrics without the keys whose value is null."""
    if isinstance(value, Mapping):
        return {key: without_null(inner) for key, inner in value.items() if inner is not None}
    return value
