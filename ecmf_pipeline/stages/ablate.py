"""`ablate`: which modalities, models and parts earn their place, and what damaged inputs cost."""

from __future__ import annotations

import numpy as np

from ecmf_pipeline import layout
from ecmf_pipeline.clips import labels_of
from ecmf_pipeline.evaluation.ablation import Study, ablate
from ecmf_pipeline.evaluation.ablation_files import summary, write_ablation
from ecmf_pipeline.evaluation.scoring import Judge
from ecmf_pipeline.evaluation.variants import variants
from ecmf_pipeline.params import load_params
from ecmf_pipeline.progress import progress_bar, say
from ecmf_pipeline.stage_inputs import folds_of, read_features, read_labelled_corpus, text_halves


def run() -> None:
    """Train the variants on given labels and judge them as `evaluate` judges."""
    params = load_params()
    corpus = read_labelled_corpus()
    training = params.train.training
    features = dict(read_features(params, corpus.clips))
    judge = Judge(corpus.clips, corpus.labels, params.evaluate)
    study = Study(
        labels=np.array(labels_of(corpus.clips, corpus.labels), np.int64),
        truth=np.array([judge.truth(clip) for clip in corpus.clips], dtype=np.str_),
        groups=[clip.group for clip in corpus.clips],
        folds=folds_of(corpus, training.folds, training.seed),
        label_names=tuple(corpus.labels),
        config=params.ablate,
    )
    chosen = list(variants(features, text_halves(params, features), params.train.fusion, training, params.ablate))
    with progress_bar("ablate", len(chosen), unit="variant") as bar:
        found = ablate(study, chosen, lambda: bar.update())
    judged = [clip.clip_id for clip in judge.clips]
    write_ablation(layout.ABLATION, layout.METRICS / "ablate.json", judged, judge.by, found)
    say(summary(found.results, judge.by))
