"""Write the tables of a small project that `compare` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import (
    Clip,
    ClipId,
    CorpusDescription,
    Split,
    write_corpus_description,
    write_manifest,
)
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.labels.decision_files import write_refined
from ecmf_pipeline.labels.refine import Decision, LabelAction

LABELS = ("happy", "sad")
PARAMS = {"preset": "embedded", "train": {"fusion": {"hidden": 128}}}


def make_clips(count: int = 8, **others: str) -> list[Clip]:
    """Return clips of which every second is sad, two for each speaker."""
    return [
        Clip(
            ClipId(f"clip{number}"),
            digest=f"{number:064x}",
            given_label=LABELS[number % 2],
            split=Split.TRAIN,
            group=f"speaker{number // 2}",
            **others,
        )
        for number in range(count)
    ]


def truth_of(clips: Sequence[Clip]) -> list[str]:
    return [clip.gold_label or clip.given_label for clip in clips]


def write_version(
    folder: Path,
    clips: Sequence[Clip],
    *,
    predicted: Mapping[str, Sequence[str]],
    refined: Sequence[str] | None = None,
    params: Mapping[str, object] = PARAMS,
) -> Path:
    """Write a version of a project.

    Args:
        folder: The project folder.
        clips: The manifest.
        predicted: The label that each model predicts for each clip, by model, such as ``given/fusion``.
        refined: The refined label of each clip; None: the version has no refined labels.
        params: Content of params.yaml.
    """
    (folder / paths.DATA).mkdir(parents=True, exist_ok=True)
    (folder / paths.PARAMS).write_text(yaml.safe_dump(dict(params)))
    write_manifest(folder / paths.MANIFEST, clips)
    description = CorpusDescription(list(LABELS), [], False, sha256_file(folder / paths.MANIFEST))
    write_corpus_description(folder / paths.CORPUS, description)
    for name, labels in predicted.items():
        trained_on, _, variant = name.partition("/")
        write_predictions(folder / paths.DATA / "predictions" / trained_on / f"{variant}.csv", clips, labels)
    if refined is not None:
        decisions = [
            Decision(
                clip.clip_id,
                clip.split,
                clip.given_label,
                label,
                LabelAction.KEEP if label else LabelAction.DROP,
                float(bool(label)),
                0.75,
                1.0,
                "reason",
                label=label or LABELS[0],
                rival=LABELS[1],
            )
            for clip, label in zip(clips, refined, strict=True)
        ]
        (folder / paths.REFINED).parent.mkdir(exist_ok=True)
        write_refined(folder / paths.REFINED, decisions, {}, np.full((len(clips), 2), 0.5), LABELS)
    return folder


def write_predictions(path: Path, clips: Sequence[Clip], labels: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PredictionTable(
        clip_ids=tuple(clip.clip_id for clip in clips),
        splits=tuple(clip.split.value for clip in clips),
        out_of_fold=np.ones(len(clips), bool),
        flags=("",) * len(clips),
        label_names=LABELS,
        probs=np.array([[0.75, 0.25] if label == LABELS[0] else [0.25, 0.75] for label in labels], np.float32).reshape(
            -1, 2
        ),
        modalities=("audio",),
        modality_weights=np.ones((len(clips), 1), np.float32),
    ).write(path)
