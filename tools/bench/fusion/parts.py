"""Ablation of the parts of `ecmf` and of its training (`python -m tools.bench.fusion parts`, takes minutes)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import assign_folds
from ecmf_pipeline.evaluation.ablation import NO_PREDICTION, Study
from ecmf_pipeline.evaluation.config import AblateConfig
from ecmf_pipeline.evaluation.variants import variants
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import encode_labels
from ecmf_pipeline.fusion.training import CrossValidation, cross_validate
from tools.bench.fusion.generated import generate, with_missing
from tools.bench.fusion.ravdess import read_ravdess

RAVDESS_SEEDS, GENERATED_SEEDS = 1, 1
MISSING_SHARES = {"face": 0.05, "audio": 0.1, "text": 0.2}
"""Share of clips of the generated set without the modality."""


def parts_figures() -> Iterator[str]:
    """Remove or add each part, on RAVDESS (folds by actor) and on the generated set with missing modalities."""
    torch.set_num_threads(1)
    features, labels, actors = read_ravdess()
    yield f"RAVDESS, {RAVDESS_SEEDS} seed(s), 95% intervals over actors and seeds"
    yield from _parts(features, labels, actors, RAVDESS_SEEDS)
    yield from _ensembling(features, labels, actors)
    generated = generate(candidates=0)
    incomplete = with_missing(generated.features, MISSING_SHARES, seed=7)
    yield (
        f"generated set, 7,369 clips, missing modalities {MISSING_SHARES}, {GENERATED_SEEDS} seed(s), "
        "95% intervals over clips"
    )
    labels = [str(label) for label in generated.labels]
    yield from _parts(incomplete, labels, None, GENERATED_SEEDS, first_fold_only=True)


def _parts(
    features: Mapping[str, NDArray[np.float32]],
    labels: Sequence[str],
    groups: Sequence[str] | None,
    seeds: int,
    *,
    first_fold_only: bool = False,
) -> Iterator[str]:
    """Yield a line for the default model and for each part; with ``first_fold_only``, evaluate only the first fold."""
    classes, names = encode_labels(labels)
    config = AblateConfig(parts=True, modalities=False, fusions=(), seeds=seeds)
    fusion, training = FusionConfig(), TrainingConfig()
    folds = assign_folds(classes, groups, training.folds, rng=np.random.default_rng(training.seed))
    if first_fold_only:
        folds = np.where(folds == 0, folds, -1)
    evaluated_labels = np.where(folds >= 0, np.array(labels), NO_PREDICTION)
    study = Study(classes, evaluated_labels, groups or [""] * len(labels), folds, names, config)
    default_predictions = None
    for variant in variants(features, {}, fusion, training, config):
        predictions = study.predict(study.train(variant), variant.features)
        scores = study.mean_scores(predictions)
        line = f"  {variant.name}: accuracy {scores['accuracy']:.4f}, weighted F1 {scores['weighted_f1']:.4f}"
        if default_predictions is None:
            default_predictions = predictions
            yield f"{line} on {scores['clips']} clips (reference)"
            continue
        gain = study.difference(predictions, default_predictions)
        yield f"{line} ({gain['difference']:+.4f} vs reference, {gain['low']:+.4f} to {gain['high']:+.4f})"


def _ensembling(
    features: Mapping[str, NDArray[np.float32]], labels: Sequence[str], groups: Sequence[str]
) -> Iterator[str]:
    """Yield accuracy and log-loss for several numbers of models per fold, with and without temperature scaling."""
    for seeds in (1, 3, 5):
        for calibration in ("none", "temperature"):
            training = TrainingConfig.model_validate({"seeds": seeds, "calibration": calibration})
            result = cross_validate(features, labels, groups, training=training)
            yield (
                f"  {seeds} model(s) per fold, calibration {calibration}: accuracy {result.metrics['accuracy']:.4f}, "
                f"log-loss {_log_loss(result, labels):.4f}"
            )


def _log_loss(result: CrossValidation, labels: Sequence[str]) -> float:
    classes, _ = encode_labels(labels, result.ensemble.label_names)
    return float(-np.log(np.maximum(result.probs[np.arange(len(classes)), classes], 1e-12)).mean())
