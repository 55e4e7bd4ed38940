"""Pure functions of arrays: array types, pooling of rows to one vector a clip, metrics, and folds.

Folds never tear a group apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.config import Pool, PoolOrFrames
from ecmf_pipeline.core.errors import TooFewClips

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MOST_FRAMES = 32
"""Rows that a sequence has at most where nothing else is said: speech has fifty a second, and all would be padded to
the longest."""

LEAST_GROUPS_TO_VALIDATE = 3
"""With fewer groups in a training part, keeping one aside whole would leave too little to train on."""


def pooled_width(dim: int, pool: Pool) -> int:
    """Width of a pooled vector for frame rows of width ``dim``."""
    return 2 * dim if pool == "mean_std" else dim


def pool_segments(values: NDArray[np.float32], lengths: NDArray[np.int64], pool: Pool) -> NDArray[np.float32]:
    """Pool runs of consecutive rows.

    Args:
        values: Rows of all clips, one after another, (sum of lengths, D).
        lengths: Rows of each clip, (n,), every one at least 1.
        pool: ``mean``, ``max``, or ``mean_std`` (mean and population standard deviation, side by side).

    Returns:
        (n, D), or (n, 2 D) for ``mean_std``.

    Raises:
        ValueError: When a clip has no row: what is missing must be masked, not pooled.
    """
    if len(lengths) == 0:
        return np.empty((0, pooled_width(values.shape[1], pool)), np.float32)
    if (lengths < 1).any() or int(lengths.sum()) != len(values):
        raise ValueError("every clip needs at least one row, and the rows must add up")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    if pool == "max":
        return np.maximum.reduceat(values, starts, axis=0)
    count = lengths[:, None].astype(np.float32)
    mean = np.divide(np.add.reduceat(values, starts, axis=0, dtype=np.float32), count, dtype=np.float32)  # (n, D)
    if pool == "mean":
        return mean
    deviation = values - np.repeat(mean, lengths, axis=0)
    spread = np.sqrt(np.add.reduceat(deviation**2, starts, axis=0) / count)
    return np.concatenate([mean, spread], axis=1)


def shortened(rows: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """A sequence of at most ``most`` rows: a longer one is averaged in as many runs, alike in length.

    Args:
        rows: Frame-level features of one clip, (T, D).
        most: At least 1.

    Returns:
        (T, D) as it came, or (most, D).
    """
    if len(rows) <= most:
        return rows
    ends = np.linspace(0, len(rows), most + 1).astype(np.int64)
    return pool_segments(rows, np.diff(ends), "mean")


def halves(values: NDArray[np.float32], pool: PoolOrFrames) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features of two inputs that were embedded side by side, apart: (..., D) -> (..., D / 2) twice.

    Args:
        values: Features read with ``pool``: each statistic of ``mean_std`` holds the columns of both inputs.
        pool: How they were pooled.
    """
    statistics = 2 if pool == "mean_std" else 1
    columns = values.reshape(*values.shape[:-1], statistics, 2, -1)
    rows = (*values.shape[:-1], values.shape[-1] // 2)
    return columns[..., 0, :].reshape(rows), columns[..., 1, :].reshape(rows)


def weighted_f1(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Weighted F1 as MER2025's evaluation computes it: ``f1_score(..., average="weighted")``."""
    from sklearn.metrics import f1_score

    return float(f1_score(truth, predicted, average="weighted", zero_division=0))


def scores(truth: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, object]:
    """Weighted F1, accuracy, clip count and per-class precision, recall, F1 and support.

    Args:
        truth: True labels, (n,).
        predicted: Predicted labels, (n,).
        labels: All labels, in the order they are reported.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=list(labels), zero_division=0
    )
    return {
        "clips": len(truth),
        "weighted_f1": round(weighted_f1(truth, predicted), 6),
        "accuracy": round(float(accuracy_score(truth, predicted)), 6),
        "per_class": {
            label: {
                "precision": round(float(precision[i]), 6),
                "recall": round(float(recall[i]), 6),
                "f1": round(float(f1[i]), 6),
                "support": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
    }


def confusion(truth: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """Confusion counts, (C, C): rows are true labels, columns predicted ones."""
    from sklearn.metrics import confusion_matrix

    counts: NDArray[np.int64] = confusion_matrix(truth, predicted, labels=list(labels)).astype(np.int64)
    return counts


def expected_calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017, arXiv 1706.04599, eq. 3).

    Args:
        confidence: The probability each prediction was given, (n,).
        correct: Whether it was right, (n,).
        bins: How many bins.
    """
    if len(confidence) == 0:
        return float("nan")
    which = np.clip((confidence * bins).astype(int), 0, bins - 1)
    error = 0.0
    for index in range(bins):
        inside = which == index
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return float(error)


def bootstrap_difference(
    first: NDArray[np.str_],
    second: NDArray[np.str_],
    truth: NDArray[np.str_],
    *,
    rng: np.random.Generator,
    groups: NDArray[np.str_] | None = None,
    draws: int = 1000,
) -> tuple[float, float, float]:
    """Paired bootstrap of ``weighted_f1(first) - weighted_f1(second)``, percentile interval (Efron & Tibshirani 1993).

    Args:
        first: Predictions of one model, (n,).
        second: Predictions of the other on the same clips, (n,).
        truth: True labels, (n,).
        rng: Source of randomness.
        groups: Speakers or dialogues, (n,): whole groups are drawn, since their clips are not independent.
        draws: Bootstrap samples.

    Returns:
        The difference and its 95% interval.
    """
    difference, samples = bootstrap_samples(first, second, truth, rng=rng, groups=groups, draws=draws)
    low, high = np.quantile(samples, [0.025, 0.975])
    return difference, float(low), float(high)


def bootstrap_samples(
    first: NDArray[np.str_],
    second: NDArray[np.str_],
    truth: NDArray[np.str_],
    *,
    rng: np.random.Generator,
    groups: NDArray[np.str_] | None = None,
    draws: int = 1000,
) -> tuple[float, NDArray[np.float64]]:
    """The difference that `bootstrap_difference` tells, and its samples, (draws,)."""
    names, codes = np.unique(np.concatenate([truth, first, second]), return_inverse=True)
    classes = len(names)
    t, a, b = np.split(codes, 3)
    # Clips alike in truth and both predictions are interchangeable: counts of the C^3 kinds say all there is to draw.
    kinds = (t * classes + a) * classes + b
    units = (
        np.unique(groups, return_inverse=True)[1] if groups is not None else np.unique(kinds, return_inverse=True)[1]
    )
    counts = np.zeros((units.max() + 1, classes**3))  # (U, C^3)
    np.add.at(counts, (units, kinds), 1.0)
    if groups is not None:
        times = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=draws)  # (draws, U)
    else:
        size = counts.sum(axis=1)
        times = rng.multinomial(len(truth), size / size.sum(), size=draws) / size
    cubes = (times @ counts).reshape(draws, classes, classes, classes)
    samples = _weighted_f1_of(cubes.sum(axis=3)) - _weighted_f1_of(cubes.sum(axis=2))
    whole = counts.sum(axis=0).reshape(1, classes, classes, classes)
    difference = _weighted_f1_of(whole.sum(axis=3)) - _weighted_f1_of(whole.sum(axis=2))
    return float(difference[0]), samples


def _weighted_f1_of(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted F1 of many confusion matrices, (n, C, C) -> (n,), a class that is never met counting 0."""
    right = np.diagonal(confusions, axis1=1, axis2=2)  # (n, C)
    support, predicted = confusions.sum(axis=2), confusions.sum(axis=1)
    f1 = np.divide(2 * right, support + predicted, out=np.zeros_like(right), where=support + predicted > 0)
    weighted: NDArray[np.float64] = (f1 * support).sum(axis=1) / support.sum(axis=1)
    return weighted


def assign_folds(
    labels: NDArray[np.int64], groups: Iterable[Any] | None, folds: int, *, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Deal clips into folds, alike in their labels, no group in two of them.

    Args:
        labels: Class indices, (n,); -1 (no label) counts as a class of its own.
        groups: Speaker or dialogue of each clip, (n,), see `group_names`; "" is a group by itself; None when no group
            is known.
        folds: How many folds are wanted. There are fewer when there are fewer groups, or fewer than two clips a fold.
        rng: Source of randomness.

    Returns:
        The fold of each clip, (n,), from 0 up; no fold is empty.

    Raises:
        TooFewClips: When no two folds can be made: fewer than four clips, fewer than two labels, or one group.
    """
    clips = len(labels)
    classes = np.unique(labels[labels >= 0])
    if clips < 4 or len(classes) < 2:
        raise TooFewClips(
            f"{clips} labelled clips of {len(classes)} class(es) cannot be trained and evaluated in folds",
            "label more clips: at least four, of at least two classes",
        )
    named = group_indices(groups)
    wanted = min(folds, clips // 2)
    if named is None:
        return _stratified(labels, wanted, rng)
    members = len(np.unique(named))
    if members < 2:
        raise TooFewClips(
            "all labelled clips belong to one group, so that none can be held out",
            "label clips of another speaker, or leave the group column empty if the groups mean nothing",
        )
    return _grouped(labels, named, min(wanted, members), rng)


def validation_rows(
    labels: NDArray[np.int64], groups: Iterable[Any] | None, share: float, *, part: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which rows of a training part are kept aside to stop the training, (n,).

    They are whole groups where at least `LEAST_GROUPS_TO_VALIDATE` are known; else rows dealt by label, which is a
    somewhat lenient judge of when to stop, but never touches the fold that is evaluated.

    Args:
        labels: Class indices, (n,).
        groups: As for `assign_folds`.
        share: Share of rows wanted.
        part: Which part to take, so that models of one fold keep different rows aside.
        rng: Source of randomness; the same state gives parts that do not overlap.
    """
    parts = max(2, round(1 / share))
    named = group_indices(groups)
    members = 0 if named is None else len(np.unique(named))
    if named is None or members < LEAST_GROUPS_TO_VALIDATE:
        dealt = _dealt(labels, parts, rng)
    else:
        dealt = _grouped(labels, named, min(parts, members), rng)
    aside: NDArray[np.bool_] = dealt == part % (int(dealt.max()) + 1)
    return aside


def group_indices(groups: Iterable[Any] | None) -> NDArray[np.int64] | None:
    """Groups as numbers, each "" a number of its own; None when none is named, (n,)."""
    names = [] if groups is None else group_names(groups)
    if not any(names):
        return None
    named = {name: index for index, name in enumerate(sorted(set(names) - {""}))}
    alone = iter(range(len(named), len(named) + len(names)))
    return np.array([named[name] if name else next(alone) for name in names], dtype=np.int64)


def _stratified(labels: NDArray[np.int64], folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    from sklearn.model_selection import StratifiedKFold

    if np.unique(labels, return_counts=True)[1].max() < folds:  # StratifiedKFold refuses
        return _dealt(labels, folds, rng)
    return _split(StratifiedKFold(folds, shuffle=True, random_state=int(rng.integers(2**31))), labels, None)


def _grouped(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    if np.unique(labels, return_counts=True)[1].max() >= folds:  # else StratifiedGroupKFold refuses
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=int(rng.integers(2**31)))
        assigned = _split(splitter, labels, groups)
        if len(np.unique(assigned)) == folds:  # its greedy choice may leave a fold empty
            return assigned
    return _split(GroupKFold(folds), labels, groups)


def _dealt(labels: NDArray[np.int64], folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Like cards: sorted by label, one to each fold in turn. Works however few members a class has."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    assigned = np.empty(len(labels), dtype=np.int64)
    assigned[order] = np.arange(len(labels)) % folds
    return assigned


def _split(splitter: Any, labels: NDArray[np.int64], groups: NDArray[np.int64] | None) -> NDArray[np.int64]:
    assigned = np.full(len(labels), -1, dtype=np.int64)
    with warnings.catch_warnings():
        # A rare class is no reason to stop: the folds without it are evaluated on the others.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
            assigned[held_out] = fold
    return assigned


def group_names(groups: Iterable[Any]) -> list[str]:
    """Groups as words, "" where there is none (None, NaN, pandas' NA), (n,); the group 0 is a group like any other.

    Args:
        groups: Speaker or dialogue of each clip, (n,): words, numbers, or anything that `str` tells apart.

    Raises:
        ValueError: When they are not one column.
    """
    if isinstance(groups, str) or len(getattr(groups, "shape", (0,))) != 1:
        raise ValueError(f"groups must be (n,), not {getattr(groups, 'shape', groups)!r}")
    return ["" if is_missing(group) else str(group) for group in groups]


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, pandas' NA or NaT."""
    if isinstance(value, Real):
        return bool(value != value)  # NaN alone
    return value is None or type(value).__name__ in {"NAType", "NaTType"}  # without an import of pandas
