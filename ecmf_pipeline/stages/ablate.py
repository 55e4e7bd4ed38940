"""`ablate`: ablation study of modalities, models and parts, and robustness to perturbed inputs."""

from __future__ import annotations

import numpy as np

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import label_indices
from ecmf_pipeline.core.config import PoolOrFrames
from ecmf_pipeline.core.console import echo, progress_bar
from ecmf_pipeline.evaluation.ablation import Study, ablate, summary, write_ablation, write_no_ablation
from ecmf_pipeline.evaluation.scoring import Evaluator
from ecmf_pipeline.evaluation.variants import variants
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import (
    echo_nothing_to_train,
    folds_of,
    open_stored,
    read_project_corpus,
    text_halves,
)

_POOL_NAMES = {"mean": "pooled by their mean", "frames": "frame by frame"}


def run() -> None:
    """Train the variants on given labels and score them as `evaluate` does."""
    params = load_params()
    labelled = read_project_corpus(params)
    corpus = labelled.corpus
    if labelled.is_zero_shot:
        write_no_ablation(paths.ABLATION, paths.ABLATE)
        echo_nothing_to_train("ablate", labelled)
        return
    training, pool = params.train.training, params.train.pool
    folds = folds_of(corpus, training.folds, training.seed)
    evaluator = Evaluator(corpus.clips, corpus.labels, params.evaluate)
    # Clips that are neither trained on nor scored are not loaded, to save memory.
    used = [row for row, clip in enumerate(corpus.clips) if clip.given_label or evaluator.truth(clip)]
    clips = [corpus.clips[row] for row in used]
    clip_ids = [clip.clip_id for clip in clips]
    stored = open_stored(params, clips)
    features = stored.read(clip_ids, pool)
    study = Study(
        labels=np.array(label_indices(clips, corpus.labels), np.int64),
        truth=np.array([evaluator.truth(clip) for clip in clips], dtype=np.str_),
        groups=[clip.group for clip in clips],
        folds=folds[used],
        label_names=tuple(corpus.labels),
        config=params.ablate,
    )
    other: PoolOrFrames = "mean" if pool == "frames" else "frames"
    otherwise = {_POOL_NAMES[other]: stored.read(clip_ids, other)} if params.ablate.frames else {}
    halves = text_halves(params, features)
    chosen = list(variants(features, halves, params.train.fusion, training, params.ablate, otherwise=otherwise))
    with progress_bar("ablate", len(chosen), unit="variant") as bar:
        ablation = ablate(study, chosen, lambda: bar.update())
    scored_ids = [clip.clip_id for clip in evaluator.clips]
    write_ablation(paths.ABLATION, paths.ABLATE, scored_ids, evaluator.by, ablation)
    echo(summary(ablation.results, evaluator.by))
