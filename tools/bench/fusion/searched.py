"""Whether the search for settings helps (`python -m tools.bench.fusion search`): RAVDESS by actor, nested."""

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
    """One model a fold with and without a search inside each fold's training part, with a paired interval."""
    features, labels, actors = read_ravdess()
    found = {}
    for trials in (0, TRIALS):
        started = process_time()
        training = TrainingConfig(seeds=1, search=SearchConfig(trials=trials, folds=3))
        found[trials] = cross_validate(features, labels, actors, training=training)
        yield (
            f"search of {trials} trials: accuracy {found[trials].metrics['accuracy']:.4f}, "
            f"{process_time() - started:.0f} CPU-s"
        )
    difference, low, high = bootstrap_difference(
        found[TRIALS].predictions,
        found[0].predictions,
        np.array(labels),
        rng=np.random.default_rng(7),
        groups=np.array(actors),
    )
    yield f"searched over configured: {difference:+.4f} weighted F1 ({low:+.4f} to {high:+.4f}, actors drawn)"
