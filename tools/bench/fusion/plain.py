"""The fusion against plain models on the same features and folds, and its calibration; five seeds.

``plain`` prints weighted F1 of the fusion, of each plain model and of the best one, which is chosen on inner folds,
with the paired difference, and the calibration error less that of perfect calibration at this number of clips.
``small`` prints the same scores for 30 to 240 labelled clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import (
    assign_folds,
    bootstrap_samples,
    calibration_error_by_chance,
    expected_calibration_error,
    weighted_f1,
)
from ecmf_pipeline.core.errors import EcmfError
from ecmf_pipeline.evaluation.plain import BEST, plain_predictions
from ecmf_pipeline.fusion.config import TrainingConfig
from ecmf_pipeline.fusion.training import fit
from tools.bench.fusion.plain_sets import LabelledSet, default_corpus, generated_set, meld_set, ravdess_set

SEEDS = (7, 8, 9, 10, 11)
"""Seeds of the folds and of the models."""

SMALL_SIZES = (30, 60, 120, 240)
SMALL_SEEDS = 5

BRANCHES = "mean of branches"


@dataclass(frozen=True)
class Run:
    """Predictions of one seed for the scored clips of a set.

    Attributes:
        predicted: Class of each clip by model, (n,), as strings.
        truth: True class, (n,), as strings.
        groups: Group of each clip, (n,); draws of the bootstrap.
        excess: Calibration error less that by chance, by pattern: ``all`` or the missing modality.
        error: Calibration error by pattern.
    """

    predicted: dict[str, NDArray[np.str_]]
    truth: NDArray[np.str_]
    groups: NDArray[np.str_]
    excess: dict[str, float]
    error: dict[str, float]


def plain_figures() -> Iterator[str]:
    """Yield a table row for each set, the mean over sets, and the calibration errors."""
    differences, calibration = [], []
    yield "| set | clips | fusion | " + " | ".join(_COLUMNS) + " | fusion less best | 95% interval |"
    yield "|---|---|---|" + "---|" * len(_COLUMNS) + "---|---|"
    for make_set in (default_corpus, ravdess_set, meld_set, generated_set):
        try:
            one = make_set()
        except EcmfError as error:
            yield f"{make_set.__name__}: {error.message}"
            continue
        name, runs = one.name, [_run(one, seed) for seed in SEEDS]
        difference, low, high = _difference(runs, BEST)
        differences.append(difference)
        means = {model: np.mean([_f1(run, model) for run in runs]) for model in runs[0].predicted}
        cells = " | ".join(f"{means[column]:.4f}" if column in means else "-" for column in _COLUMNS)
        yield (
            f"| {name} | {len(runs[0].truth)} | {means['fusion']:.4f} | {cells} | {difference:+.4f} | "
            f"{low:+.4f} to {high:+.4f} |"
        )
        difference, low, high = _difference(runs, BRANCHES)
        yield f"{name}: fusion less {BRANCHES} {difference:+.4f} ({low:+.4f} to {high:+.4f})"
        calibration += _calibration_rows(name, runs)
    yield f"mean over sets of fusion less best: {np.mean(differences):+.4f} (required: above 0, no interval below 0)"
    yield "| set | missing | ECE | ECE less that by chance | required |"
    yield "|---|---|---|---|---|"
    yield from calibration


def small_figures() -> Iterator[str]:
    """Yield weighted F1 on unseen clips after training on 30 to 240 labelled clips, mean over draws."""
    yield "| set | labelled | fusion | " + " | ".join(_COLUMNS) + " |"
    yield "|---|---|---|" + "---|" * len(_COLUMNS)
    for one in (ravdess_set(), meld_set()):
        for size in SMALL_SIZES:
            scores: dict[str, list[float]] = {}
            for seed in range(SMALL_SEEDS):
                run = _run(one.with_few_labels(size, seed), seed)
                for model in run.predicted:
                    scores.setdefault(model, []).append(_f1(run, model))
            cells = " | ".join(f"{np.mean(scores[column]):.4f}" for column in ("fusion", *_COLUMNS))
            yield f"| {one.name} | {size} | {cells} |"


_COLUMNS = ("logistic regression", "LightGBM", "SVM", "mean of probabilities", BRANCHES, BEST)


def _run(one: LabelledSet, seed: int) -> Run:
    classes = one.truth.max() + 1
    folds = one.folds
    if folds is None:
        folds = assign_folds(one.labels, one.groups, 5, rng=np.random.default_rng(seed))
    names = [str(index) for index in range(classes)]
    ensemble = fit(
        one.features,
        one.labels,
        one.groups,
        folds=folds,
        label_names=names,
        training=TrainingConfig(seed=seed, seeds=3),
        description=f"{one.name}, seed {seed}",
    )
    scored = np.flatnonzero((one.truth >= 0) & (folds >= 0))
    features = {name: values[scored] for name, values in one.features.items()}
    prediction = ensemble.predict(features, folds[scored])
    branches = np.nan_to_num(prediction.branch_probs).sum(axis=1)
    predicted = {"fusion": prediction.classes, BRANCHES: branches.argmax(axis=1)}
    plain = plain_predictions(one.features, one.labels, one.groups, folds, seed=seed)
    predicted |= {name: values[scored] for name, values in plain.items()}
    # Calibration is measured on the labels that the models predict: those of a noisy corpus are not the true ones.
    error, excess = {}, {}
    labelled = np.flatnonzero(one.labels[scored] >= 0)
    for missing in ("", *one.features) if len(labelled) else ():
        masks = {missing: np.zeros(len(scored), np.bool_)} if missing else None
        probs = ensemble.predict(features, folds[scored], masks).probs[labelled]
        known = ~np.isnan(probs[:, 0])
        confidence = probs.max(axis=1)[known].astype(np.float64)
        correct = (probs.argmax(axis=1) == one.labels[scored][labelled])[known]
        error[missing] = expected_calibration_error(confidence, correct)
        excess[missing] = error[missing] - calibration_error_by_chance(confidence, rng=np.random.default_rng(seed))
    # Without groups each clip is one: all seeds then draw the same clips.
    groups = np.arange(len(scored)).astype(np.str_) if one.groups is None else np.array(one.groups)[scored]
    as_text = {name: values.astype(np.str_) for name, values in predicted.items()}
    return Run(as_text, one.truth[scored].astype(np.str_), groups, excess, error)


def _f1(run: Run, model: str) -> float:
    return weighted_f1(run.truth, run.predicted[model])


def _difference(runs: list[Run], model: str) -> tuple[float, float, float]:
    """Return the mean paired difference of the fusion to a model over seeds, with its 95% interval.

    Each bootstrap sample draws the same clips or groups for all seeds, which are averaged.
    """
    pairs = [
        bootstrap_samples(
            run.predicted["fusion"], run.predicted[model], run.truth, rng=np.random.default_rng(7), groups=run.groups
        )
        for run in runs
    ]
    low, high = np.quantile(np.mean([samples for _, samples in pairs], axis=0), [0.025, 0.975])
    return float(np.mean([difference for difference, _ in pairs])), float(low), float(high)


def _calibration_rows(name: str, runs: list[Run]) -> Iterator[str]:
    for missing in runs[0].excess:
        error, excess = (float(np.mean([values[missing] for values in by_run])) for by_run in (
            [run.error for run in runs], [run.excess for run in runs],
        ))  # fmt: skip
        required = 0.05 if missing else 0.03
        yield f"| {name} | {missing or '-'} | {error:.3f} | {excess:+.3f} | {required} |"
