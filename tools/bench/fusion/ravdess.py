"""Fusion of action units and MFCCs of RAVDESS; folds by actor: test speakers are unseen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import bootstrap_difference
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.training import CrossValidation, cross_validate

RAVDESS = Path(__file__).parents[4] / "shared" / "data" / "ravdess" / "au_mfcc_1440x294.npz"
FOLD_SEEDS = (7, 8, 9, 10, 11)
"""Seeds of the folds and of the models."""

N_DESIGN_ACTORS = 12
"""Number of actors used to choose between variants of the model; results on the others are unbiased."""


def ravdess_figures() -> Iterator[str]:
    """Yield accuracy on eight classes of our fusion, of single modalities and of standard classifiers."""
    features, labels, actors = read_ravdess()
    results = {"ecmf": cross_validate(features, labels, actors)}
    runs = [
        results["ecmf"],
        *(cross_validate(features, labels, actors, training=TrainingConfig(seed=s)) for s in FOLD_SEEDS[1:]),
    ]
    yield _spread("ecmf, face and audio", runs, np.array(labels), np.ones(len(labels), dtype=np.bool_))
    unseen = np.array([int(actor) > N_DESIGN_ACTORS for actor in actors])
    yield _spread(f"ecmf, face and audio, actors after {N_DESIGN_ACTORS}", runs, np.array(labels), unseen)
    for name in features:
        results[name] = cross_validate({name: features[name]}, labels, actors)
        yield _line(f"{name} alone", results[name])
    best = max(features, key=lambda name: results[name].metrics["weighted_f1"])
    difference, low, high = bootstrap_difference(
        results["ecmf"].predictions,
        results[best].predictions,
        np.array(labels),
        rng=np.random.default_rng(7),
        groups=np.array(actors),
    )
    yield (
        f"weighted F1, ecmf minus {best} alone: {difference:+.4f} (95% interval {low:+.4f} to {high:+.4f}, over actors)"
    )
    for kind in ("attention", "concat", "gated", "mean_probs"):
        yield _line(f"{kind}, face and audio", cross_validate(features, labels, actors, fusion=FusionConfig(kind=kind)))
    both = np.concatenate(list(features.values()), axis=1)
    for name, values in (*features.items(), ("both", both)):
        for model, accuracy in _standard_classifiers(values, labels, actors).items():
            yield f"{model} on {name}: accuracy {accuracy:.4f}"


def read_ravdess() -> tuple[dict[str, NDArray[np.float32]], list[str], list[str]]:
    """Read features, labels and actors."""
    table = np.load(RAVDESS)
    parts = [str(name).split(".")[0].split("-") for name in table["name"]]
    values = table["X"].astype(np.float32)
    return {"face": values[:, :35], "audio": values[:, 35:]}, [p[2] for p in parts], [p[6] for p in parts]


def _spread(name: str, runs: list[CrossValidation], truth: NDArray[np.str_], rows: NDArray[np.bool_]) -> str:
    accuracies = [float((run.predictions == truth)[rows].mean()) for run in runs]
    shown = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
    mean, deviation = np.mean(accuracies), np.std(accuracies, ddof=1)
    return f"{name}: accuracy {mean:.4f}, standard deviation {deviation:.4f} over fold seeds ({shown})"


def _line(name: str, result: CrossValidation) -> str:
    return f"{name}: accuracy {result.metrics['accuracy']:.4f}, weighted F1 {result.metrics['weighted_f1']:.4f}"


def _standard_classifiers(values: NDArray[np.float32], labels: list[str], actors: list[str]) -> dict[str, float]:
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
    truth = np.array(labels)
    accuracies = {}
    for name, model in models.items():
        folds = GroupKFold(5)
        predicted = cross_val_predict(make_pipeline(StandardScaler(), model), values, truth, groups=actors, cv=folds)
        accuracies[name] = float((predicted == truth).mean())
    return accuracies
