"""Which parts of `ecmf` and of its training earn their place (`python -m tools.bench.fusion parts`, minutes)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import assign_folds
from ecmf_pipeline.evaluation.ablation import NOTHING, Study
from ecmf_pipeline.evaluation.config import AblateConfig
from ecmf_pipeline.evaluation.variants import variants
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import encode_labels
from ecmf_pipeline.fusion.training import CrossValidation, cross_validate
from tools.bench.fusion.generated import generate, with_holes
from tools.bench.fusion.ravdess import read_ravdess

RAVDESS_SEEDS, GENERATED_SEEDS = 1, 1
HOLES = {"face": 0.05, "audio": 0.1, "text": 0.2}
"""Share of the clips of the generated set that lack a modality."""


def parts_figures() -> Iterator[str]:
    """Each part taken away or added, on RAVDESS by actor and on the generated set with missing modalities."""
    torch.set_num_threads(1)
    features, labels, actors = read_ravdess()
    yield f"RAVDESS, {RAVDESS_SEEDS} seeds, intervals over actors and seeds"
    yield from _parts(features, labels, actors, RAVDESS_SEEDS)
    yield from _ensembling(features, labels, actors)
    made = generate(candidates=0)
    holed = with_holes(made.features, HOLES, seed=7)
    yield f"the generated set, 7,369 clips, lacking {HOLES}, {GENERATED_SEEDS} seed(s), intervals over clips"
    yield from _parts(holed, [str(label) for label in made.labels], None, GENERATED_SEEDS, first_fold_alone=True)


def _parts(
    features: Mapping[str, NDArray[np.float32]],
    labels: Sequence[str],
    groups: Sequence[str] | None,
    seeds: int,
    *,
    first_fold_alone: bool = False,
) -> Iterator[str]:
    """A line for the default and for each part; a large set is judged by its first fold alone."""
    classes, names = encode_labels(labels)
    config = AblateConfig(parts=True, modalities=False, fusions=(), seeds=seeds)
    fusion, training = FusionConfig(), TrainingConfig()
    folds = assign_folds(classes, groups, training.folds, rng=np.random.default_rng(training.seed))
    if first_fold_alone:
        folds = np.where(folds == 0, folds, -1)
    judged = np.where(folds >= 0, np.array(labels), NOTHING)
    study = Study(classes, judged, groups or [""] * len(labels), folds, names, config)
    base = None
    for variant in variants(features, {}, fusion, training, config):
        found = study.answers(study.train(variant), variant.features)
        told = study.told(found)
        line = f"  {variant.name}: accuracy {told['accuracy']:.4f}, weighted F1 {told['weighted_f1']:.4f}"
        if base is None:
            base = found
            yield f"{line} over {told['clips']} clips"
            continue
        against = study.difference(found, base)
        yield f"{line} ({against['difference']:+.4f}, {against['low']:+.4f} to {against['high']:+.4f})"


def _ensembling(
    features: Mapping[str, NDArray[np.float32]], labels: Sequence[str], groups: Sequence[str]
) -> Iterator[str]:
    """What more models a fold, and the temperature, do for accuracy and for the probabilities."""
    for seeds in (1, 3, 5):
        for calibration in ("none", "temperature"):
            training = TrainingConfig.model_validate({"seeds": seeds, "calibration": calibration})
            found = cross_validate(features, labels, groups, training=training)
            yield (
                f"  {seeds} model(s) a fold, calibration {calibration}: accuracy {found.metrics['accuracy']:.4f}, "
                f"log-loss {_log_loss(found, labels):.4f}"
            )


def _log_loss(found: CrossValidation, labels: Sequence[str]) -> float:
    classes, _ = encode_labels(labels, found.ensemble.label_names)
    return float(-np.log(np.maximum(found.probs[np.arange(len(classes)), classes], 1e-12)).mean())
