"""`train`: train the fusion model, and each modality alone, on extracted features."""

from __future__ import annotations

import shutil
from dataclasses import replace

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clips
from ecmf_pipeline.core.columns import indices_in
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.files import write_csv, write_json
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.fusion.config import FusionConfig
from ecmf_pipeline.fusion.folds import ClipFolds
from ecmf_pipeline.fusion.prediction import SINGLE_MODELS, Ensemble
from ecmf_pipeline.fusion.tables import training_curve
from ecmf_pipeline.fusion.training import fit
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import (
    echo_nothing_to_train,
    feature_origins,
    folds_of,
    given_labels,
    open_stored,
    read_project_corpus,
    refined_labels,
    refined_sha256,
)

_CURVE_COLUMNS = ["epoch", "loss", "weighted_f1", "models"]


def run(labels: paths.Labels) -> None:
    """Train on the given or the refined labels and save the models."""
    params = load_params()
    labelled = read_project_corpus(params)
    corpus = labelled.corpus
    if labelled.is_zero_shot:
        _write_nothing(labels)
        echo_nothing_to_train(f"train ({labels} labels)", labelled)
        return
    # The digest is taken before the labels are read: if the file changes in between, the models count as stale.
    labels_sha256 = refined_sha256() if labels == "refined" else ""
    training_set = given_labels(corpus) if labels == "given" else refined_labels(corpus)
    clips = Clips.of(training_set.clips)
    clip_ids = clips.ids
    stored = open_stored(params, training_set.clips)
    features = stored.read(clip_ids, params.train.pool)
    origins = feature_origins(params, stored)
    folds = ClipFolds(  # includes clips that are not trained on, since other clips of their group may be
        corpus.columns.ids,
        folds_of(corpus, params.train.training.folds, params.train.training.seed),
        indices_in(corpus.columns.table.column("clip_id"), clip_ids) >= 0,
    )
    folder = paths.models_trained_on(labels)
    shutil.rmtree(folder, ignore_errors=True)

    def train(name: str, fusion: FusionConfig) -> Ensemble:
        ensemble = fit(
            features,
            training_set.labels,
            groups=clips.groups,
            weights=training_set.weights,
            folds=folds.of_clips(clip_ids),
            clip_ids=clip_ids,
            label_names=corpus.labels,
            fusion=fusion,
            training=params.train.training,
            description=f"train {name}",
        )
        ensemble = replace(
            ensemble,
            folds=folds,
            pool=params.train.pool,
            labels_sha256=labels_sha256,
            origins=origins,
        )
        ensemble.save(folder / name)
        echo(f"  {name}: {len(ensemble.members)} models")
        return ensemble

    fusion = train("fusion", params.train.fusion)
    write_csv(paths.training_curve(labels), _CURVE_COLUMNS, training_curve(fusion.members))
    # The single modalities are the baselines of the fusion; on given labels suffices. The branches of `ecmf` are these
    # models, other kinds need their own.
    if labels == "given" and not fusion.has_single_models:
        train(SINGLE_MODELS, params.train.fusion.model_copy(update={"kind": "mean_probs"}))
    n_clips = format_count(int((training_set.weights > 0).sum()), "clip")
    of_verdicts = "; the given labels are verdicts" if labelled.basis is Basis.VERDICTS else ""
    echo(f"train ({labels} labels): {n_clips}{of_verdicts}")


def _write_nothing(labels: paths.Labels) -> None:
    """Write a folder without models and an empty training curve, which DVC expects."""
    folder = paths.models_trained_on(labels)
    shutil.rmtree(folder, ignore_errors=True)
    write_json(paths.no_models(labels), {"reason": "too few labels to train on"})
    write_csv(paths.training_curve(labels), _CURVE_COLUMNS, [])
