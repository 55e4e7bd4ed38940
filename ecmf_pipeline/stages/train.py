"""`train`: the fusion model, and each modality alone, on cached features."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline import layout
from ecmf_pipeline.clips import labels_of
from ecmf_pipeline.errors import TooFewClips
from ecmf_pipeline.fusion.training import fit
from ecmf_pipeline.labels.tables import read_decisions
from ecmf_pipeline.params import load_params
from ecmf_pipeline.progress import say
from ecmf_pipeline.stage_inputs import Corpus, read_features, read_labelled_corpus


@dataclass(frozen=True, slots=True)
class _Target:
    """Labels to learn, (n,) indices with -1 for none, and how much each counts, (n,)."""

    labels: NDArray[np.int64]
    weights: NDArray[np.float64]


def run(labels: layout.Labels) -> None:
    """Train on the labels as given, or as refined, and save the models."""
    params = load_params()
    corpus = read_labelled_corpus()
    features = read_features(params, corpus.clips)
    target = _given(corpus) if labels == "given" else _refined(corpus)
    rows = np.flatnonzero(target.labels >= 0)
    # The modalities alone are the fusion's yardstick; one training of each says enough.
    variants = {"fusion": list(features)} | ({name: [name] for name in features} if labels == "given" else {})
    folder = layout.models_trained_on(labels)
    shutil.rmtree(folder, ignore_errors=True)  # a modality that is no longer in use must not be predicted with
    for variant, modalities in variants.items():
        try:
            ensemble = fit(
                {name: features[name][rows] for name in modalities},
                target.labels[rows],
                groups=[corpus.clips[row].group for row in rows],
                weights=target.weights[rows],
                clip_ids=[corpus.clips[row].clip_id for row in rows],
                label_names=corpus.labels,
                fusion=params.train.fusion,
                training=params.train.training,
                description=f"train {variant}",
            )
        except TooFewClips as error:
            if variant == "fusion":
                raise
            say(f"  {variant} alone cannot be trained, and is left out of the comparison: {error.what}")
            continue
        ensemble.save(folder / variant)
        say(f"  {variant}: {len(ensemble.members)} models")
    say(f"train ({labels} labels): {int((target.weights[rows] > 0).sum())} clips")


def _given(corpus: Corpus) -> _Target:
    labels = np.array(labels_of(corpus.clips, corpus.labels), np.int64)
    return _Target(labels, (labels >= 0).astype(np.float64))


def _refined(corpus: Corpus) -> _Target:
    index = {label: position for position, label in enumerate(corpus.labels)}
    decisions = {decision.clip_id: decision for decision in read_decisions(layout.REFINED)}
    labels = np.full(len(corpus.clips), -1, np.int64)
    weights = np.zeros(len(corpus.clips))
    for row, clip in enumerate(corpus.clips):
        decision = decisions.get(clip.clip_id)
        # A given label that was dropped stays in its fold, with weight 0: its clip is then predicted out of fold too.
        if decision and (decision.weight > 0 or decision.old_label):
            labels[row] = index[decision.new_label or decision.old_label]
            weights[row] = decision.weight
    return _Target(labels, weights)
