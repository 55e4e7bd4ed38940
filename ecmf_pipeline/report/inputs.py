"""Inputs of a report, already loaded: plain data without paths; `metrics` has the schemas of the metrics files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.columns import Rows
from ecmf_pipeline.core.predictions import ABSTAINS, PredictionTable
from ecmf_pipeline.fusion.config import modality_of
from ecmf_pipeline.labels.refine import Decision
from ecmf_pipeline.report.checks import ClipMap, LabelIssue
from ecmf_pipeline.report.neighbours import Neighbours
from ecmf_pipeline.report.thumbnails import Thumbnail
from ecmf_pipeline.runner.quarantine import QuarantineEntry


@dataclass(frozen=True, slots=True)
class PredictedClip:
    """Prediction of the fusion model for one clip.

    Attributes:
        label: The predicted label; empty if there is no prediction, or a zero-shot one is too uncertain.
        probability: Probability of this label; None if there is no prediction.
        modality_weights: Weight of each modality, 0 to 1; NaN or no entry if the clip has no usable modality.
        flag: Reason why there is no prediction, such as ``no usable modality``; empty if there is one.
        encoder_weights: Weight of each encoder of modalities with several; that of the modality is their sum.
    """

    clip_id: str
    split: str
    label: str
    probability: float | None = None
    modality_weights: Mapping[str, float] = field(default_factory=dict)
    flag: str = ""
    encoder_weights: Mapping[str, float] = field(default_factory=dict)


class PredictedClips(Sequence[PredictedClip]):
    """Predictions of a table, one for each clip; each is created when it is accessed.

    Attributes:
        table: The predictions as columns.
    """

    def __init__(self, table: PredictionTable) -> None:
        self.table = table

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.table.clip_ids)

    @overload
    def __getitem__(self, index: int) -> PredictedClip: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PredictedClip]: ...
    def __getitem__(self, index: int | slice) -> PredictedClip | Sequence[PredictedClip]:
        """Return the prediction of one clip, or a list of them."""
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        table, best = self.table, int(self.table.probs[index].argmax())
        weights = dict(zip(table.modalities, table.modality_weights[index].tolist(), strict=True))
        return PredictedClip(
            clip_id=table.clip_ids[index],
            split=table.splits[index],
            label="" if table.flags[index] == ABSTAINS else table.label_names[best],
            probability=float(table.probs[index, best]),
            modality_weights={name: weight for name, weight in weights.items() if name == modality_of(name)},
            encoder_weights={name: weight for name, weight in weights.items() if name != modality_of(name)},
            flag=table.flags[index],
        )


def column(rows: Sequence[Any], name: str) -> list[Any]:
    """Return the values of one field of all clips or decisions, (n,), without creating an instance for each row."""
    return rows.column(name).tolist() if isinstance(rows, Rows) else [getattr(row, name) for row in rows]


def predicted_labels(predictions: Sequence[PredictedClip]) -> dict[str, str]:
    """Return the predicted label of each clip that has a prediction, by clip id."""
    if not isinstance(predictions, PredictedClips):
        return {row.clip_id: row.label for row in predictions if row.label and not row.flag}
    table = predictions.table
    pairs = zip(table.clip_ids, table.labels, table.is_flagged.tolist(), strict=True)
    return {clip_id: label for clip_id, label, is_flagged in pairs if not is_flagged}


NO_FACE = "no face found"
"""Reason of the contact sheet of a clip without a face."""


@dataclass(frozen=True, slots=True)
class FaceSheet:
    """Contact sheet of one clip.

    Attributes:
        reason: Reason why the clip was chosen.
        description: Description of the sheet.
        picture: JPEG of (height, width) pixels; empty if there is none.
        problem: Reason why there is no picture; empty if there is one.
    """

    clip_id: str
    reason: str
    description: str = ""
    picture: bytes = b""
    width: int = 0
    height: int = 0
    problem: str = ""


@dataclass(frozen=True)
class ReportInput:
    """Results of a run. Absent results are empty or None, and the report states their absence.

    Attributes:
        corpus: ``kind``, ``root``, ``labels`` (in the order of the model's outputs), ``synthetic``, ``basis`` (what
            models are trained on; see `Basis`) and ``verdicts`` (their number).
        index: Metrics of the `index` stage, of which ``findings`` (count by kind) and ``splits`` are used.
        findings: Findings about the corpus: ``kind``, ``clip_id``, ``message``.
        coverage: Number of clips that are ``done``, ``absent``, ``quarantined``, ``missing``, by modality.
        absent: The modalities of which no clip has an input; they are left out of ``coverage`` and ``encoders``.
        provenance: Origin of the features by modality, as in docs/reference/formats.md; None if it is not recorded.
        computed_with: Combinations of library versions that computed the rows, by modality; an empty combination means
            that some rows have no recorded versions.
        evaluate: Metrics of the `evaluate` stage; see `Evaluation`.
        ablate: Metrics of the `ablate` stage; see `Ablation`. None if it did not run.
        vote_sources: Metrics of the sources of votes, written by the `evaluate` stage; None if absent.
        refined: Decisions of the refinement, one per clip; empty if it did not run.
        language_notes: Sentences about texts in languages that a model in use does not know.
        no_face_sheets: Reason why there are no contact sheets; empty if there are some, or if they are disabled.
        evaluated: Predictions that `evaluate` scored, if they differ from ``predictions``: a clip whose group was
            trained on is predicted by the models that held out the group. Empty: ``predictions`` were scored.
        clip_map: Map of the clips with cards; None if there is none.
        neighbours: Near-duplicates and outliers among all clips; None if no clip has features.
        label_issues: Given labels that are probably wrong, the most probable error first; None if not searched.
        thumbnails: Pictures of clips by clip id.
        resources: Recorded runs by command; see `core.resources`.
        disk: Bytes by store or folder.
    """

    corpus: Mapping[str, Any]
    clips: Sequence[Clip] = ()
    index: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Mapping[str, Any]] = ()
    quarantine: Sequence[QuarantineEntry] = ()
    coverage: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    absent: Sequence[str] = ()
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
    language_notes: Sequence[str] = ()
    evaluated: Sequence[PredictedClip] = ()
    clip_map: ClipMap | None = None
    neighbours: Neighbours | None = None
    label_issues: Sequence[LabelIssue] | None = None
    thumbnails: Mapping[str, Thumbnail] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    disk: Mapping[str, int] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the model's outputs."""
        return [str(label) for label in self.corpus.get("labels") or ()]

    @property
    def scored(self) -> Sequence[PredictedClip]:
        """The predictions that `evaluate` scored."""
        return self.evaluated or self.predictions

    @property
    def synthetic(self) -> bool:
        """Whether the clips are generated."""
        return bool(self.corpus.get("synthetic"))
