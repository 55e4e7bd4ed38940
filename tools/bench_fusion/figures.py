"""What `python -m tools.bench_fusion` measures."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from ecmf_pipeline.fusion import CrossValidation, FusionConfig, cross_validate, fit
from ecmf_pipeline.metrics import bootstrap_difference
from tools.bench_fusion.baseline import EPOCHS, FOLDS, baseline_run
from tools.bench_fusion.generated import GeneratedSet, generate

RAVDESS = Path(__file__).parents[3] / "shared" / "data" / "ravdess" / "au_mfcc_1440x294.npz"
BASELINE_EPOCHS = 3
"""Epochs of the baseline's loop that are run: enough to tell what one costs; its best come first."""


def generated_figures() -> Iterator[str]:
    """CPU time and weighted F1 on the set as large as MER2025's, beside the baseline's loop, on one thread each."""
    torch.set_num_threads(1)
    made = generate()
    ours = {}
    for kind in ("ecmf", "attention"):
        spent, score = _fit_and_predict(made, FusionConfig(kind=kind))
        ours[kind] = (spent, score)
        yield f"{kind}: {spent:.1f} CPU-s to train five folds of three and predict 20,000, weighted F1 {score:.4f}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    yield f"peak memory so far {peak:.2f} GB, the generated set included (must be under 1.5)"
    run = baseline_run(made.features, made.labels, made.candidates, made.candidate_labels, epochs=BASELINE_EPOCHS)
    total = run.cpu_per_epoch * FOLDS * EPOCHS
    yield (
        f"baseline's loop: {run.cpu_per_epoch:.2f} CPU-s an epoch, {total:.0f} for {FOLDS} x {EPOCHS}; weighted F1 "
        f"{run.test_f1:.4f} ({run.cv_f1:.4f} on the folds it chose its epochs by)"
    )
    for kind, (spent, score) in ours.items():
        yield f"{kind} against it: {total / spent:.1f} times less CPU time, weighted F1 {score - run.test_f1:+.4f}"


def _fit_and_predict(made: GeneratedSet, fusion: FusionConfig) -> tuple[float, float]:
    started = time.process_time()
    ensemble = fit(made.features, made.labels, fusion=fusion)
    predicted = ensemble.predict(made.candidates).classes
    spent = time.process_time() - started
    return spent, float(f1_score(made.candidate_labels, predicted, average="weighted"))


def ravdess_figures() -> Iterator[str]:
    """Accuracy over eight classes, grouped by actor, of fusion and of plain classifiers, with paired intervals."""
    features, labels, actors = read_ravdess()
    found = {"ecmf": cross_validate(features, labels, actors)}
    yield _told("ecmf, face and audio", found["ecmf"])
    for name in features:
        found[name] = cross_validate({name: features[name]}, labels, actors)
        yield _told(f"{name} alone", found[name])
    best = max(features, key=lambda name: found[name].metrics["weighted_f1"])
    difference, low, high = bootstrap_difference(
        found["ecmf"].predictions,
        found[best].predictions,
        np.array(labels),
        rng=np.random.default_rng(7),
        groups=np.array(actors),
    )
    yield f"ecmf over {best} alone: {difference:+.4f} weighted F1 ({low:+.4f} to {high:+.4f}, actors drawn)"
    for kind in ("attention", "concat", "gated", "mean_probs"):
        yield _told(f"{kind}, face and audio", cross_validate(features, labels, actors, fusion=FusionConfig(kind=kind)))
    both = np.concatenate(list(features.values()), axis=1)
    for name, values in (*features.items(), ("both", both)):
        for model, accuracy in _plain(values, labels, actors).items():
            yield f"{model} on {name}: accuracy {accuracy:.4f}"


def missing_figures() -> Iterator[str]:
    """What a modality that is missing at test time costs, beside training without it (RAVDESS, by actor)."""
    features, labels, actors = read_ravdess()
    both = cross_validate(features, labels, actors)
    yield _told("nothing missing", both)
    for gone in features:
        masks = {gone: np.zeros(len(labels), dtype=bool)}
        predicted = both.ensemble.predict(features, both.folds, masks)
        names = np.array(both.ensemble.label_names)[predicted.classes]
        without = cross_validate({n: v for n, v in features.items() if n != gone}, labels, actors)
        yield (
            f"{gone} missing at test time: accuracy {float((names == labels).mean()):.4f}; trained without it: "
            f"{without.metrics['accuracy']:.4f}"
        )


def read_ravdess() -> tuple[dict[str, NDArray[np.float32]], list[str], list[str]]:
    """Features, labels and actors."""
    table = np.load(RAVDESS)
    parts = [str(name).split(".")[0].split("-") for name in table["name"]]
    values = table["X"].astype(np.float32)
    return {"face": values[:, :35], "audio": values[:, 35:]}, [p[2] for p in parts], [p[6] for p in parts]


def _told(name: str, result: CrossValidation) -> str:
    return f"{name}: accuracy {result.metrics['accuracy']:.4f}, weighted F1 {result.metrics['weighted_f1']:.4f}"


def _plain(values: NDArray[np.float32], labels: list[str], actors: list[str]) -> dict[str, float]:
    from lightgbm import LGBMClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    models: dict[str, Any] = {
        "linear": LogisticRegression(C=0.1, max_iter=500),
        "RBF SVM": SVC(C=4.0),
        "MLP": MLPClassifier((128,), alpha=1.0, early_stopping=True, max_iter=100, random_state=7),
        "LightGBM": LGBMClassifier(
            n_estimators=120, num_leaves=7, learning_rate=0.08, n_jobs=1, verbose=-1, random_state=7
        ),
    }
    answers = np.array(labels)
    accuracies = {}
    for name, model in models.items():
        folds = GroupKFold(5)
        found = cross_val_predict(make_pipeline(StandardScaler(), model), values, answers, groups=actors, cv=folds)
        accuracies[name] = float((found == answers).mean())
    return accuracies
