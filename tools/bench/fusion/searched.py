"""Gain of the hyperparameter search on RAVDESS, nested folds by actor (`python -m tools.bench.fusion search`)."""

from __future__ import annotations

from collections.abc import Iterator
from time import process_time

import numpy as np

from ecmf_pipeline.core.arrays import bootstrap_difference
from ecmf_pipeline.fusion.config import SearchConfig, TrainingConfig
from ecmf_pipeline.fusion.training import cross_validate
from tools.bench.fusion.ravdess import read_ravdess

TRIALS = 6


def search_figures() -> Iterator[str]:
    """Compare one model per fold with and without a search in the training part of each fold; paired interval."""
    features, labels, actors = read_ravdess()
    results = {}
    for trials in (0, TRIALS):
        started = process_time()
        training = TrainingConfig(seeds=1, search=SearchConfig(trials=trials, folds=3))
        results[trials] = cross_validate(features, labels, actors, training=training)
        yield (
            f"search of {trials} trials: accuracy {results[trials].metrics['accuracy']:.4f}, "
            f"{process_time() - started:.0f} CPU s"
        )
    difference, low, high = bootstrap_difference(
        results[TRIALS].predictions,
        results[0].predictions,
        np.array(labels),
        rng=np.random.default_rng(7),
        groups=np.array(actors),
    )
    yield f"gain of the search in weighted F1: {difference:+.4f} (95% interval {low:+.4f} to {high:+.4f}, over actors)"
