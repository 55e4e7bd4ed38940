"""All that a report is made of, already loaded: plain data, no paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ecmf_pipeline.clips import Clip
from ecmf_pipeline.quarantine import QuarantineEntry


@dataclass(frozen=True, slots=True)
class PredictedClip:
    """What the fused model says of one clip.

    Attributes:
        clip_id: The clip.
        split: What the clip is for.
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
class SourceVote:
    """One source's opinion of one clip.

    Attributes:
        source: Its name, as in ``text/linear``.
        label: Its first choice; empty when it abstains.
        probability: Probability of that choice; None when it abstains or states none.
    """

    source: str
    label: str
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class LabelDecision:
    """What refinement did with one clip's label.

    Attributes:
        clip_id: The clip.
        split: What the clip is for.
        given_label: The label it came with; empty when there was none.
        refined_label: The label to train on; empty when there is none.
        decision: ``keep``, ``relabel``, ``drop``, ``pseudo``, ``review`` or ``leave``.
        weight: The clip's weight in training, 0 to 1.
        confidence: Probability of the likeliest label under the label model; None when unknown.
        agreement: Share of the voting sources that vote for it; None when all abstain.
        reason: Why, in words.
        votes: One entry a source.
    """

    clip_id: str
    split: str
    given_label: str
    refined_label: str
    decision: str
    weight: float = 1.0
    confidence: float | None = None
    agreement: float | None = None
    reason: str = ""
    votes: Sequence[SourceVote] = ()


@dataclass(frozen=True, slots=True)
class FaceSheet:
    """One clip's contact sheet.

    Attributes:
        clip_id: The clip.
        why: What it was chosen for.
        about: What it shows, in words.
        picture: JPEG; empty when there is none.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
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
        clips: The manifest.
        index: Metrics of the `index` stage; of them only ``findings`` (count by kind) is read.
        findings: What is odd about the corpus: ``kind``, ``clip_id``, ``message``.
        quarantine: The entries of all stages.
        coverage: For each modality, how many clips are ``done``, ``absent``, ``quarantined``, ``missing``.
        encoders: For each modality, the settings of its feature store.
        dims: For each modality, D.
        provenance: For each modality, where its features come from; see docs/store.md. None where a store is silent.
        computed_with: For each modality, the combinations of library versions that computed its rows; an empty one
            stands for rows of which nobody knows.
        evaluate: The metrics of the `evaluate` stage; see `evaluation.Evaluation`.
        predictions: One entry a predicted clip.
        refined: One entry a clip that refinement looked at; empty when it did not run.
        face_sheets: Contact sheets of some clips' faces.
        no_face_sheets: Why there are none; empty when there are some, or none were asked for.
        params: The params of the run.
        versions: Version of each package that matters.
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
    predictions: Sequence[PredictedClip] = ()
    refined: Sequence[LabelDecision] = ()
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
