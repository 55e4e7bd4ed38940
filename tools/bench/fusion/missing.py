"""Accuracy if a modality is missing at test time; reference: a model trained without that modality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.fusion.config import TrainingConfig
from ecmf_pipeline.fusion.training import cross_validate
from tools.bench.fusion.generated import generate
from tools.bench.fusion.ravdess import read_ravdess

LABELLED = 2_000
"""Number of clips of the generated set; each modality takes one more training."""

HALF = 130
"""Number of audio columns of RAVDESS that form a modality by themselves in the test with three modalities."""


def missing_figures() -> Iterator[str]:
    """Yield a line for each modality of RAVDESS (split into two and into three) and of the generated set."""
    features, labels, actors = read_ravdess()
    yield from _missing("RAVDESS", features, labels, actors)
    audio = features["audio"]
    three = {"face": features["face"], "early": audio[:, :HALF], "late": audio[:, HALF:]}
    yield from _missing("RAVDESS, three modalities", three, labels, actors)
    generated = generate(LABELLED, 0)
    class_names = [str(label) for label in generated.labels]
    yield from _missing(f"generated, {LABELLED:,} clips", generated.features, class_names, None)


def _missing(
    name: str, features: Mapping[str, NDArray[np.float32]], labels: Sequence[str], groups: Sequence[str] | None
) -> Iterator[str]:
    training = TrainingConfig(seeds=1)
    complete = cross_validate(features, labels, groups, training=training)
    yield f"{name}, all modalities: accuracy {complete.metrics['accuracy']:.4f}"
    names = np.array(complete.ensemble.label_names)
    for missing in features:
        masks = {missing: np.zeros(len(labels), dtype=np.bool_)}
        predicted = names[complete.ensemble.predict(features, complete.folds, masks).classes]
        accuracy = float((predicted == np.array(labels)).mean())
        others = {modality: values for modality, values in features.items() if modality != missing}
        without = cross_validate(others, labels, groups, training=training).metrics["accuracy"]
        yield (
            f"{name}, {missing} missing at test time: accuracy {accuracy:.4f}, reference (trained without it) "
            f"{without:.4f}, difference {100 * (accuracy - without):+.1f} points (required: above -2)"
        )
