"""`train`: train the fusion model, and each modality alone, on extracted features."""

from __future__ import annotations

import shutil
from dataclasses import replace

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clips
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.core.files import write_csv, write_json
from ecmf_pipeline.core.predictions import Basis
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
    # Single modalities are the baseline of the fusion model; training them on given labels suffices.
    variants = {"fusion": list(features)} | ({name: [name] for name in features} if labels == "given" else {})
    folds = folds_of(corpus, params.train.training.folds, params.train.training.seed)
    fold_of = dict(zip(corpus.columns.ids, folds.tolist(), strict=True))
    folder = paths.models_trained_on(labels)
    for variant, modalities in variants.items():
        try:
            ensemble = fit(
                {name: features[name] for name in modalities},
                training_set.labels,
                groups=clips.groups,
                weights=training_set.weights,
                folds=[fold_of[clip_id] for clip_id in clip_ids],
                clip_ids=clip_ids,
                label_names=corpus.labels,
                fusion=params.train.fusion if variant == "fusion" else params.train.fusion.alone(variant),
                training=params.train.training,
                description=f"train {variant}",
            )
        except TooFewClips as error:
            if variant == "fusion":
                raise
            echo(f"  {variant}: left out of the comparison, because it cannot be trained: {error.message}")
            shutil.rmtree(folder / variant, ignore_errors=True)
            continue
        ensemble = replace(
            ensemble,
            folds=fold_of,  # includes clips that were not trained on, since other clips of their group may have been
            pool=params.train.pool,
            labels_sha256=labels_sha256,
            origins={name: origins[name] for name in modalities},
        )
        ensemble.save(folder / variant)
        if variant == "fusion":
            write_csv(paths.training_curve(labels), _CURVE_COLUMNS, training_curve(ensemble.members))
        echo(f"  {variant}: {len(ensemble.members)} models")
    # Models of modalities that are no longer in use must not be loaded by `predict`.
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
        elif path.name not in variants:
            shutil.rmtree(path)
    n_clips = format_count(int((training_set.weights > 0).sum()), "clip")
    of_verdicts = "; the given labels are verdicts" if labelled.basis is Basis.VERDICTS else ""
    echo(f"train ({labels} labels): {n_clips}{of_verdicts}")


def _write_nothing(labels: paths.Labels) -> None:
    """Write a folder without models and an empty training curve, which DVC expects."""
    folder = paths.models_trained_on(labels)
    shutil.rmtree(folder, ignore_errors=True)
    write_json(paths.no_models(labels), {"reason": "too few labels to train on"})
    write_csv(paths.training_curve(labels), _CURVE_COLUMNS, [])
