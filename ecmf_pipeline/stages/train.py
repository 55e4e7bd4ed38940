"""`train`: the fusion model, and each modality alone, on cached features."""

from __future__ import annotations

import shutil
from dataclasses import replace

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.fusion.training import fit
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import (
    folds_of,
    given_labels,
    open_stored,
    origins_of,
    read_labelled_corpus,
    refined_labels,
    refined_sha256,
)


def run(labels: paths.Labels) -> None:
    """Train on the labels as given, or as refined, and save the models."""
    params = load_params()
    corpus = read_labelled_corpus()
    # Noted before the labels are read: were they written anew meanwhile, the models must pass for old ones.
    learned_from = refined_sha256() if labels == "refined" else ""
    learned = given_labels(corpus) if labels == "given" else refined_labels(corpus)
    clip_ids = [clip.clip_id for clip in learned.clips]
    stored = open_stored(params, learned.clips)
    features = stored.read(clip_ids, params.train.pool)
    origins = origins_of(params, stored)
    # The modalities alone are the fusion's yardstick; one training of each says enough.
    variants = {"fusion": list(features)} | ({name: [name] for name in features} if labels == "given" else {})
    folds = folds_of(corpus, params.train.training.folds, params.train.training.seed)
    by_clip: dict[str, int] = {clip.clip_id: fold for clip, fold in zip(corpus.clips, folds.tolist(), strict=True)}
    folder = paths.models_trained_on(labels)
    for variant, modalities in variants.items():
        try:
            ensemble = fit(
                {name: features[name] for name in modalities},
                learned.labels,
                groups=[clip.group for clip in learned.clips],
                weights=learned.weights,
                folds=[by_clip[clip_id] for clip_id in clip_ids],
                clip_ids=clip_ids,
                label_names=corpus.labels,
                fusion=params.train.fusion if variant == "fusion" else params.train.fusion.alone(variant),
                training=params.train.training,
                description=f"train {variant}",
            )
        except TooFewClips as error:
            if variant == "fusion":
                raise
            echo(f"  {variant} alone cannot be trained, and is left out of the comparison: {error.message}")
            shutil.rmtree(folder / variant, ignore_errors=True)
            continue
        # Clips that were not trained on have a fold too: their group may have been.
        known = {name: origins[name] for name in modalities}
        told = replace(ensemble, folds=by_clip, pool=params.train.pool, labels_sha256=learned_from, origins=known)
        told.save(folder / variant)
        echo(f"  {variant}: {len(ensemble.members)} models")
    # A modality that is no longer in use must not be predicted with.
    for path in folder.iterdir():
        if path.name not in variants:
            shutil.rmtree(path)
    echo(f"train ({labels} labels): {int((learned.weights > 0).sum())} clips")
