"""Plain models as yardsticks of the fusion: logistic regression, LightGBM, an SVM, and a mean of probabilities.

They are trained on the same features, labels and folds. Imputation, scaling and principal components are fitted to the
training part of each fold. Their hyperparameters, and the best of them, are chosen on inner folds of this part.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Bools, Floats, Ints, assign_folds, group_indices, weighted_f1
from ecmf_pipeline.core.clips import Corpus
from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.evaluation.scoring import Evaluator
from ecmf_pipeline.labels.config import LightGbmConfig
from ecmf_pipeline.labels.voters import clip_weights, vote

BEST = "best plain model"
LOGISTIC, LIGHTGBM, SVM = "logistic regression", "LightGBM", "SVM"
MEAN = "mean of probabilities"

INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0)
SVM_COSTS = (0.5, 2.0, 8.0)

COMPONENTS, TREE_COMPONENTS, SVM_COMPONENTS = 256, 96, 128
"""Maximum number of principal components; more cost time and were not better."""

INNER_FOLDS = 3
INNER_CLIPS = 1_000
"""Maximum number of training clips of a fold on which models are chosen."""

BALANCE = 0.5
"""Exponent of the class weights, equal to that of the fusion's training."""

Classifier = Callable[[Ints, Ints, Ints], Floats]
"""Function from rows to train on, their classes, 0 to C - 1, and other rows to the probabilities of these, (q, C)."""


def plain_predictions(
    features: Mapping[str, NDArray[np.float32]],
    labels: Ints,
    groups: Sequence[str] | None,
    folds: Ints,
    *,
    seed: int,
    queried: Bools | None = None,
) -> dict[str, Ints]:
    """Predict clips with plain models that were trained without their fold.

    Args:
        features: Features by modality, (n, D), or (n, T, D) at frame level, of which the mean is used; NaN if missing.
        labels: Class indices, (n,); -1 for clips that are not trained on.
        groups: Speaker or dialogue of each clip, (n,), "" if unknown; inner folds do not split them.
        folds: Fold of each clip, (n,); clips of fold -1 are trained on for all folds and not predicted.
        seed: Seed of the inner folds and of LightGBM.
        queried: Whether a clip is predicted, (n,); None: all clips with a fold. The others of its fold are not trained
            on either: they may be of its group.

    Returns:
        Predicted classes by model, (n,), -1 without a prediction; `BEST` is the best model of the inner folds.

    Raises:
        TooFewClips: If no fold leaves clips of two classes to train on.
    """
    tables = {name: _mean_frames(values) for name, values in features.items()}
    present = np.stack([np.isfinite(table).all(axis=1) for table in tables.values()], axis=1)  # (n, M)
    trainable, usable = (labels >= 0) & present.any(axis=1), (folds >= 0) & present.any(axis=1)
    usable &= True if queried is None else queried
    predicted: dict[str, Ints] = {}
    for fold in np.unique(folds[usable]).tolist():
        training, queries = np.flatnonzero(trainable & (folds != fold)), np.flatnonzero(usable & (folds == fold))
        classes = np.unique(labels[training])
        if len(classes) < 2:
            continue
        indices = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
        for name, probs in _predict_fold(tables, present, indices, groups, training, queries, seed).items():
            predicted.setdefault(name, np.full(len(labels), -1, np.int64))[queries] = classes[probs.argmax(axis=1)]
    if not predicted:
        raise TooFewClips("no fold leaves two classes to train plain models on", "label more clips")
    return predicted


def compare_plain(
    evaluator: Evaluator,
    corpus: Corpus,
    features: Mapping[str, NDArray[np.float32]],
    folds: Ints,
    fusion: Ints,
    *,
    seed: int,
) -> dict[str, Any]:
    """Compare the fusion with plain models trained on the given labels.

    Args:
        evaluator: The evaluated clips.
        corpus: The n clips.
        features: See `plain_predictions`.
        folds: Fold of each clip in the training of the fusion, (n,).
        fusion: Class that the fusion predicts for each evaluated clip, (m,).
        seed: Seed of the plain models.

    Returns:
        ``models`` (for each: ``weighted_f1``, ``accuracy``, and ``fusion_over``, the paired difference of the fusion to
        it), or ``why`` there are none.
    """
    is_evaluated = np.zeros(len(folds), np.bool_)
    is_evaluated[evaluator.rows] = True
    given, groups = corpus.given, corpus.columns.groups
    rows = np.flatnonzero(is_evaluated | (given >= 0))
    try:
        predicted = plain_predictions(
            {name: values[rows] for name, values in features.items()},
            given[rows],
            [groups[row] for row in rows.tolist()],
            folds[rows],
            seed=seed,
            queried=is_evaluated[rows],
        )
    except TooFewClips as error:
        return {"models": {}, "why": error.message}
    models = {}
    for name, classes in predicted.items():
        evaluated = classes[is_evaluated[rows]]
        scores = evaluator.scores(evaluated)
        models[name] = {
            "weighted_f1": scores["weighted_f1"],
            "accuracy": scores["accuracy"],
            "fusion_over": evaluator.difference(fusion, evaluated),
        }
    return {"models": models}


def _mean_frames(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if values.ndim == 2:
        return values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a missing clip has no frames: its mean is NaN
        return np.asarray(np.nanmean(values, axis=1, dtype=np.float64), np.float32)


@dataclass(frozen=True, slots=True)
class _FoldData:
    """Principal components of all clips, fitted to the training part of one fold.

    Attributes:
        joined: Components of all modalities together, (n, K).
        single: Components of each modality, (n, K_m); 0 for clips without it.
        present: Whether a clip has a modality, (n, M).
        seed: Seed of the classifiers.
    """

    joined: Floats
    single: tuple[Floats, ...]
    present: Bools
    seed: int

    @classmethod
    def of(cls, tables: Mapping[str, NDArray[np.float32]], present: Bools, training: Ints, seed: int) -> _FoldData:
        in_training = np.zeros(len(present), np.bool_)
        in_training[training] = True
        blocks, single = [], []
        for table, has_modality in zip(tables.values(), present.T, strict=True):
            fitted_to = in_training & has_modality
            if not fitted_to.any():
                single.append(np.zeros((len(table), 1)))
                continue
            block = _standardise(table, has_modality, fitted_to)
            blocks.append(block)
            single.append(_components(block, np.flatnonzero(fitted_to), seed))
            if not has_modality[training].all():
                blocks.append((has_modality - has_modality[training].mean())[:, None].astype(np.float32))
        return cls(_components(np.hstack(blocks), training, seed), tuple(single), present, seed)


def _standardise(table: NDArray[np.float32], present: Bools, fitted_to: Bools) -> NDArray[np.float32]:
    """Standardise columns, (n, D); a missing clip gets the mean, which is 0."""
    rows = table[fitted_to].astype(np.float64)
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    std[std <= 1e-6 * np.abs(mean).clip(min=1e-6)] = 1.0
    standard = np.where(present[:, None], (table - mean) / std, 0.0)
    return np.clip(standard, -5, 5).astype(np.float32)  # the limit of the fusion


def _components(values: NDArray[np.float32], training: Ints, seed: int) -> Floats:
    from sklearn.decomposition import PCA

    count = min(COMPONENTS, len(training) - 1, values.shape[1])
    if count < 1:
        return np.zeros((len(values), 1))
    return np.asarray(PCA(count, random_state=seed).fit(values[training]).transform(values), np.float64)


def _predict_fold(
    tables: Mapping[str, NDArray[np.float32]],
    present: Bools,
    labels: Ints,
    groups: Sequence[str] | None,
    training: Ints,
    queries: Ints,
    seed: int,
) -> dict[str, Floats]:
    """Return the probabilities of each model for the clips of a fold, (q, C), and those of the best model."""
    candidates = _candidates(_FoldData.of(tables, present, training, seed))
    rows = np.sort(np.random.default_rng(seed).permutation(training)[:INNER_CLIPS])
    scores = _inner_scores(
        {name: table[rows] for name, table in tables.items()},
        present[rows],
        labels[rows],
        None if groups is None else [groups[row] for row in rows.tolist()],
        seed,
    )
    chosen = {name: max(options, key=lambda value: scores[name, value]) for name, options in candidates.items()}
    probs = {name: candidates[name][value](training, labels[training], queries) for name, value in chosen.items()}
    best = max(chosen, key=lambda name: scores[name, chosen[name]])
    return probs | {BEST: probs[best]}


def _inner_scores(
    tables: Mapping[str, NDArray[np.float32]], present: Bools, labels: Ints, groups: Sequence[str] | None, seed: int
) -> dict[tuple[str, float], float]:
    """Return the weighted F1 of each candidate on inner folds of training clips; 0 if there are too few.

    Principal components are fitted to the inner training part: those of clips that they were fitted to have a larger
    variance than those of others, which would favour trees.
    """
    rng = np.random.default_rng(seed)
    indices = group_indices(groups)
    is_grouped = indices is not None and len(np.unique(indices)) > 1
    predicted: dict[tuple[str, float], Ints] = {}
    try:
        inner = assign_folds(labels, indices if is_grouped else None, INNER_FOLDS, rng=rng)
    except TooFewClips:
        inner = np.full(len(labels), -1)
    for fold in np.unique(inner[inner >= 0]):
        fitted_to, held_out = np.flatnonzero(inner != fold), np.flatnonzero(inner == fold)
        classes, inner_labels = np.unique(labels[fitted_to], return_inverse=True)
        if len(classes) < 2:
            continue
        for name, options in _candidates(_FoldData.of(tables, present, fitted_to, seed)).items():
            for value, classify in options.items():
                of_rows = predicted.setdefault((name, value), np.full(len(labels), -1))
                of_rows[held_out] = classes[classify(fitted_to, inner_labels, held_out).argmax(axis=1)]
    return defaultdict(float, {key: weighted_f1(labels, values) for key, values in predicted.items()})


def _candidates(data: _FoldData) -> dict[str, dict[float, Classifier]]:
    """Return the classifiers of each model by hyperparameter."""
    joined, trees, few = data.joined, data.joined[:, :TREE_COMPONENTS], data.joined[:, :SVM_COMPONENTS]
    candidates: dict[str, dict[float, Classifier]] = {
        LOGISTIC: {value: _logistic(joined, value) for value in INVERSE_PENALTIES},
        LIGHTGBM: {0.0: _lightgbm(trees, data.seed)},
        SVM: {value: _svm(few, value) for value in SVM_COSTS},
    }
    if len(data.single) > 1:
        candidates[MEAN] = {value: _mean_of_probabilities(data, value) for value in INVERSE_PENALTIES}
    return candidates


def _logistic(rows: Floats, inverse_penalty: float) -> Classifier:
    def predict(training: Ints, labels: Ints, queries: Ints) -> Floats:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        model: Any = LogisticRegression(C=inverse_penalty, max_iter=300, tol=1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a yardstick is scored as it is
            model.fit(rows[training], labels, sample_weight=clip_weights(labels, BALANCE))
        return np.asarray(model.predict_proba(rows[queries]))

    return predict


def _lightgbm(rows: Floats, seed: int) -> Classifier:
    def predict(training: Ints, labels: Ints, queries: Ints) -> Floats:
        return vote(LightGbmConfig(components=TREE_COMPONENTS), rows, labels, training, queries, seed=seed)

    return predict


def _svm(rows: Floats, cost: float) -> Classifier:
    def predict(training: Ints, labels: Ints, queries: Ints) -> Floats:
        from sklearn.svm import SVC

        model: Any = SVC(C=cost, cache_size=500)
        model.fit(rows[training], labels, sample_weight=clip_weights(labels, BALANCE))
        hard: Floats = np.eye(int(labels.max()) + 1)[model.predict(rows[queries])]  # it has no probabilities
        return hard

    return predict


def _mean_of_probabilities(data: _FoldData, inverse_penalty: float) -> Classifier:
    """Return the mean of the probabilities of a logistic regression on each modality that a clip has."""

    def predict(training: Ints, labels: Ints, queries: Ints) -> Floats:
        n_classes = int(labels.max()) + 1
        total = np.zeros((len(queries), n_classes))
        for rows, present in zip(data.single, data.present.T, strict=True):
            fitted_to, asked = present[training], present[queries]
            classes, indices = np.unique(labels[fitted_to], return_inverse=True)
            if len(classes) < 2 or not asked.any():
                continue
            probs = _logistic(rows, inverse_penalty)(training[fitted_to], indices, queries[asked])
            total[np.ix_(asked, classes)] += probs
        return total

    return predict
