"""What a modality that is missing at test time costs, beside training without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.fusion.config import TrainingConfig
from ecmf_pipeline.fusion.training import cross_validate
from tools.bench.fusion.generated import generate
from tools.bench.fusion.ravdess import read_ravdess

LABELLED = 2_000
"""Clips of the generated set that are learned from here: every modality costs a training."""

HALF = 130
"""Columns of RAVDESS's audio that stand as a modality of their own where there are to be three."""


def missing_figures() -> Iterator[str]:
    """Each modality of RAVDESS (of two, and of three) and of the generated set, with a line each."""
    features, labels, actors = read_ravdess()
    yield from _missing("RAVDESS", features, labels, actors)
    audio = features["audio"]
    three = {"face": features["face"], "early": audio[:, :HALF], "late": audio[:, HALF:]}
    yield from _missing("RAVDESS in three", three, labels, actors)
    made = generate(LABELLED, 0)
    yield from _missing(f"generated, {LABELLED:,} clips", made.features, [str(label) for label in made.labels], None)


def _missing(
    name: str, features: Mapping[str, NDArray[np.float32]], labels: Sequence[str], groups: Sequence[str] | None
) -> Iterator[str]:
    training = TrainingConfig(seeds=1)
    both = cross_validate(features, labels, groups, training=training)
    yield f"{name}, nothing missing: accuracy {both.metrics['accuracy']:.4f}"
    names = np.array(both.ensemble.label_names)
    for gone in features:
        masks = {gone: np.zeros(len(labels), dtype=np.bool_)}
        predicted = names[both.ensemble.predict(features, both.folds, masks).classes]
        accuracy = float((predicted == np.array(labels)).mean())
        others = {modality: values for modality, values in features.items() if modality != gone}
        without = cross_validate(others, labels, groups, training=training).metrics["accuracy"]
        yield (
            f"{name}, {gone} missing at test time: accuracy {accuracy:.4f}, trained without it {without:.4f}: "
            f"{100 * (accuracy - without):+.1f} points (must be above -2)"
        )
