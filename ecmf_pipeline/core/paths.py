"""Paths of all files of a project, relative to the current directory; folders of a DVC project and its workspaces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ecmf_pipeline.core.clips import Modality

Labels = Literal["given", "refined"]
"""The labels that a model is trained on."""

DVC = ".dvc"
"""Name of the folder that makes a folder a DVC project."""
KEPT = Path(".ecmf")
"""Folder of a DVC project in which results are kept that DVC and Git must not remove."""

PARAMS = Path("params.yaml")
DATA = Path("data")
MODELS = DATA / "models"
SAMPLE = DATA / "sample"
INDEX_CACHE = DATA / ".index-cache.json"
LANGUAGE_CACHE = DATA / ".languages.npz"
TRANSLATION_LANGUAGE_CACHE = DATA / ".translation-languages.npz"
LAST_SCAN = DATA / ".last-scan.json"
LAST_SEGMENTATION = DATA / ".last-segmentation.json"
TRIAL = DATA / ".trial.json"
"""What `doctor` measured on this machine, for `plan` and `slurm`."""
DIGESTS = DATA / ".digests.json"
RESOURCES = DATA / ".resources.json"
"""Time and memory of the stages on this machine."""
MANIFEST = DATA / "manifest.csv"
CORPUS = DATA / "corpus.json"
QUARANTINE = DATA / "quarantine"
SETTINGS = DATA / "settings"
FINDINGS = DATA / "index" / "findings.csv"
CORPUS_VOTES = DATA / "index" / "votes.csv"
"""Votes that come with the corpus."""
SEGMENTS = DATA / "segments" / "segments.csv"
SEGMENT_FINDINGS = DATA / "segments" / "findings.csv"
SEGMENT_CACHE = DATA / "segments" / "cache"
TRANSCRIPTS = DATA / "transcripts" / "transcripts.csv"
TRANSCRIPT_CACHE = DATA / "transcripts" / "cache"
CUES = DATA / "cues"
REWRITE = DATA / "rewrite"
REWRITES = REWRITE / "rewrites.csv"
REWRITE_CACHE = REWRITE / "cache"
REWRITE_ANSWERS = REWRITE / "answers"
VOTES = DATA / "votes" / "votes.csv"
VOTE_CACHE = DATA / "votes" / "cache"
CORRECTIONS = Path("labels") / "transcripts.csv"
"""Transcripts that people have corrected."""
VERDICTS = Path("labels") / "verdicts.csv"
"""Human labels. People write them, so they are tracked by Git and not in `DATA`, which can be computed again."""
FORGOTTEN = Path("labels") / "forgotten.csv"
"""Hashes of the clips that `ecmf-pipe forget` removed and `index` skips."""
FORGETTING = KEPT / "forgetting.json"
"""What an unfinished `ecmf-pipe forget` still removes."""
REVIEW_CACHE = DATA / ".review"
"""Encoded media, face crops, the lock of the verdicts and the secret of the cookies; not tracked by Git or DVC."""
REFINED = DATA / "labels" / "refined.csv"
NEXT = DATA / "labels" / "next.csv"
METRICS = DATA / "metrics"
INDEX_METRICS = METRICS / "index.json"
SUMMARY = METRICS / "summary.json"
PLOTS = METRICS / "plots"
ABLATE = METRICS / "ablate.json"
SOURCES = METRICS / "sources.json"
ABLATION = DATA / "ablation"
TRANSFER = DATA / "transfer.json"
REPORT = DATA / "report" / "index.html"


def features(modality: Modality) -> Path:
    """Return the feature store of a modality."""
    return DATA / "features" / f"{modality.value}.zarr"


def cues(modality: Modality) -> Path:
    """Return the table of emotional cues that a modality shows in each clip."""
    return CUES / f"{modality.value}.csv"


def quarantine(stage: str, modality: Modality | None = None) -> Path:
    """Return the quarantine table of a stage."""
    return QUARANTINE / (f"{stage}-{modality.value}.csv" if modality else f"{stage}.csv")


def models_trained_on(labels: Labels) -> Path:
    """Return the folder of trained models, with one folder for each variant (``fusion`` or a modality)."""
    return DATA / "fusion" / labels


NO_MODELS = "no_models.json"
"""File in the folder of trained models if there were too few labels to train on."""


def no_models(labels: Labels) -> Path:
    """Return the file that stands for the models if there were too few labels to train on."""
    return models_trained_on(labels) / NO_MODELS


def training_curve(labels: Labels) -> Path:
    """Return the table with the validation loss of the fusion model in each epoch, for DVC plots."""
    return PLOTS / f"training_{labels}.csv"


def predictions(labels: Labels) -> Path:
    """Return the folder of out-of-fold predictions, with one csv file for each variant; `evaluate` scores them.

    Each clip, trained on or not, is predicted by the models that were trained on neither it nor its group.
    """
    return DATA / "predictions" / labels


def deployed_predictions(labels: Labels) -> Path:
    """Return the predictions of the whole fusion ensemble, which the submission contains."""
    return predictions(labels) / "deployed" / "fusion.csv"


def timeline(labels: Labels, extension: str) -> Path:
    """Return the timeline of recordings that were cut into clips, as csv or json; it is written only for these."""
    return predictions(labels) / "deployed" / f"timeline.{extension}"


def trained_on(labels: Labels) -> Path:
    """Return the file with the digest of the labels that the models behind `predictions` were trained on."""
    return predictions(labels) / "trained_on.json"


def submission(labels: Labels) -> Path:
    """Return the submission of the challenge; hand in the one of the refined labels."""
    return DATA / ("submission.csv" if labels == "refined" else "submission_given.csv")


def dvc_project(path: Path) -> Path | None:
    """Return the closest folder above a path that is a DVC project; None if there is none."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  (links are not followed: `data` may be one)
    return next((folder for folder in absolute.parents if (folder / DVC).is_dir()), None)


def main_project(project: Path) -> Path:
    """Return the DVC project that a temporary workspace of an experiment belongs to; other projects are returned.

    DVC creates these workspaces in ``.dvc/tmp/exps`` of the project (`dvc exp run --temp`, `dvc queue start`).
    """
    return next((parent.parent for parent in reversed(project.parents) if parent.name == DVC), project)
