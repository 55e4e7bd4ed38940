"""`train`: the fusion model, and each modality alone, on cached features."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, labels_of
from ecmf_pipeline.core.errors import MissingInput, TooFewClips
from ecmf_pipeline.core.progress import say
from ecmf_pipeline.fusion.training import fit
from ecmf_pipeline.labels.tables import read_decisions
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import (
    Corpus,
    folds_of,
    open_stored,
    origins_of,
    read_labelled_corpus,
    refined_sha256,
)


@dataclass(frozen=True, slots=True)
class _Targets:
    """What is learned: clips, their labels as indices, and how much each counts."""

    clips: list[Clip]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]


def run(labels: paths.Labels) -> None:
    """Train on the labels as given, or as refined, and save the models."""
    params = load_params()
    corpus = read_labelled_corpus()
    # Noted before the labels are read: were they written anew meanwhile, the models must pass for old ones.
    learned_from = refined_sha256() if labels == "refined" else ""
    targets = _given(corpus) if labels == "given" else _refined(corpus)
    stored = open_stored(params, targets.clips)
    features = stored.read([clip.clip_id for clip in targets.clips], params.train.pool)
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
                targets.labels,
                groups=[clip.group for clip in targets.clips],
                weights=targets.weights,
                folds=[by_clip[clip.clip_id] for clip in targets.clips],
                clip_ids=[clip.clip_id for clip in targets.clips],
                label_names=corpus.labels,
                fusion=params.train.fusion if variant == "fusion" else params.train.fusion.alone(variant),
                training=params.train.training,
                description=f"train {variant}",
            )
        except TooFewClips as error:
            if variant == "fusion":
                raise
            say(f"  {variant} alone cannot be trained, and is left out of the comparison: {error.what}")
            shutil.rmtree(folder / variant, ignore_errors=True)
            continue
        # Clips that were not trained on have a fold too: their group may have been.
        known = {name: origins[name] for name in modalities}
        told = replace(ensemble, folds=by_clip, pool=params.train.pool, labels_sha256=learned_from, origins=known)
        told.save(folder / variant)
        say(f"  {variant}: {len(ensemble.members)} models")
    # A modality that is no longer in use must not be predicted with.
    for path in folder.iterdir():
        if path.name not in variants:
            shutil.rmtree(path)
    say(f"train ({labels} labels): {int((targets.weights > 0).sum())} clips")


def _given(corpus: Corpus) -> _Targets:
    clips = [clip for clip in corpus.clips if clip.given_label]
    return _Targets(clips, np.array(labels_of(clips, corpus.labels), np.int64), np.ones(len(clips)))


def _refined(corpus: Corpus) -> _Targets:
    decisions = {
        decision.clip_id: decision
        for decision in read_decisions(paths.REFINED)
        if decision.weight > 0 or decision.given_label
    }
    clips = [clip for clip in corpus.clips if clip.clip_id in decisions]
    chosen = [decisions[clip.clip_id] for clip in clips]
    index = {label: position for position, label in enumerate(corpus.labels)}
    if any((decision.refined_label or decision.given_label) not in index for decision in chosen):
        raise MissingInput(f"{paths.REFINED} has labels that the corpus no longer has", "run `ecmf-pipe refine` again")
    return _Targets(
        clips,
        np.array([index[decision.refined_label or decision.given_label] for decision in chosen], np.int64),
        np.array([decision.weight for decision in chosen]),
    )
