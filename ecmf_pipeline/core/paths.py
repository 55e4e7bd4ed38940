"""Where everything stands in a project folder (paths relative to the current directory)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ecmf_pipeline.core.clips import Modality

Labels = Literal["given", "refined"]
"""Which labels a model is trained on."""

PARAMS = Path("params.yaml")
DATA = Path("data")
MODELS = DATA / "models"
SAMPLE = DATA / "sample"
INDEX_CACHE = DATA / ".index-cache.json"
LAST_SCAN = DATA / ".last-scan.json"
DIGESTS = DATA / ".digests.json"
MANIFEST = DATA / "manifest.csv"
CORPUS = DATA / "corpus.json"
QUARANTINE = DATA / "quarantine"
SETTINGS = DATA / "settings"
FINDINGS = DATA / "index" / "findings.csv"
TRANSCRIPTS = DATA / "transcripts" / "transcripts.csv"
TRANSCRIPT_CACHE = DATA / "transcripts" / "cache"
CUES = DATA / "cues"
REWRITE = DATA / "rewrite"
REWRITES = REWRITE / "rewrites.csv"
REWRITE_CACHE = REWRITE / "cache"
REWRITE_ANSWERS = REWRITE / "answers"
VOTES = DATA / "votes" / "votes.csv"
VOTE_CACHE = DATA / "votes" / "cache"
REFINED = DATA / "labels" / "refined.csv"
NEXT = DATA / "labels" / "next.csv"
METRICS = DATA / "metrics"
INDEX_METRICS = METRICS / "index.json"
PLOTS = METRICS / "plots"
ABLATE = METRICS / "ablate.json"
SOURCES = METRICS / "sources.json"
ABLATION = DATA / "ablation"
TRANSFER = DATA / "transfer.json"
REPORT = DATA / "report" / "index.html"


def features(modality: Modality) -> Path:
    """The feature store of a modality."""
    return DATA / "features" / f"{modality.value}.zarr"


def cues(modality: Modality) -> Path:
    """What a modality shows of each clip, in words."""
    return CUES / f"{modality.value}.csv"


def quarantine(stage: str, modality: Modality | None = None) -> Path:
    """The quarantine table of a stage."""
    return QUARANTINE / (f"{stage}-{modality.value}.csv" if modality else f"{stage}.csv")


def models_trained_on(labels: Labels) -> Path:
    """The trained models: one folder a variant (``fusion``, or the name of a modality alone)."""
    return DATA / "fusion" / labels


def predictions(labels: Labels) -> Path:
    """The predictions of the models in `models_trained_on`, one csv file a variant: they are what is evaluated.

    Every clip, also one that was not trained on, is judged by the models that saw neither it nor its group.
    """
    return DATA / "predictions" / labels


def deployed_predictions(labels: Labels) -> Path:
    """What the whole ensemble of fusion models says, as in the submission."""
    return predictions(labels) / "deployed" / "fusion.csv"


def trained_on(labels: Labels) -> Path:
    """Which labels the models in `models_trained_on` that made the `predictions` had learned from."""
    return predictions(labels) / "trained_on.json"


def submission(labels: Labels) -> Path:
    """The challenge's csv. The one to hand in is that of the refined labels."""
    return DATA / ("submission.csv" if labels == "refined" else "submission_given.csv")
