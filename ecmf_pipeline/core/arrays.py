"""Array types, pooling of rows to one vector for each clip, metrics and cross-validation folds."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence, Sized
from dataclasses import fields
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from ecmf_pipeline.core.config import Pool, PoolOrFrames
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import TooFewClips

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_DRAWN_NUMBERS = 1 << 20
"""Numbers that a bootstrap of groups draws at once."""

MAX_FRAMES = 32
"""Default limit of rows of a sequence: speech has fifty a second, and every sequence is padded to the longest."""

MIN_GROUPS_TO_VALIDATE = 3
"""With fewer groups in a training set, holding out a whole group would leave too little to train on."""


_SHOWN_CHARACTERS = 60
"""Longest repr of a field that `ShortRepr` shows."""


class ShortRepr:
    """Mixin of dataclasses with ``repr=False``: one line, with type and shape in place of the content of arrays."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = (f"{one.name}={_short_repr(getattr(self, one.name))}" for one in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


def _short_repr(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, Sized) and not isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        return f"{type(value).__name__} of {len(value)}"  # its repr may take long
    text = repr(value)
    if len(text) <= _SHOWN_CHARACTERS and "\n" not in text:
        return text
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, Sized) else type(value).__name__


def pooled_width(dim: int, pool: Pool) -> int:
    """Return the width of a pooled vector for rows of width ``dim``."""
    return 2 * dim if pool == "mean_std" else dim


def pool_segments(values: NDArray[np.float32], lengths: NDArray[np.int64], pool: Pool) -> NDArray[np.float32]:
    """Pool segments of consecutive rows. Sums are float64: those of finite float32 rows may overflow float32.

    Args:
        values: Concatenated rows of all clips, (sum of lengths, D).
        lengths: Number of rows of each clip, (n,), each at least 1.
        pool: ``mean``, ``max``, or ``mean_std`` (mean and population standard deviation, concatenated).

    Returns:
        (n, D), or (n, 2 D) for ``mean_std``.

    Raises:
        ValueError: If a clip has no row (mask missing clips instead), or the lengths do not add up to the rows.
    """
    if len(lengths) == 0:
        return np.empty((0, pooled_width(values.shape[1], pool)), np.float32)
    if (lengths < 1).any() or int(lengths.sum()) != len(values):
        raise ValueError("each clip needs at least one row, and the lengths must add up to the number of rows")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    if pool == "max":
        return np.maximum.reduceat(values, starts, axis=0)
    count = lengths[:, None]
    mean = np.add.reduceat(values, starts, axis=0, dtype=np.float64) / count  # (n, D)
    if pool == "mean":
        return mean.astype(np.float32)
    deviation = values - np.repeat(mean, lengths, axis=0)
    spread = np.sqrt(np.add.reduceat(np.square(deviation, out=deviation), starts, axis=0) / count)
    return np.concatenate([mean, spread], axis=1, dtype=np.float32)


def average_rows(rows: NDArray[np.float32], max_rows: int) -> NDArray[np.float32]:
    """Shorten a sequence to at most ``max_rows`` rows by averaging segments of nearly equal length.

    Args:
        rows: Frame-level features of one clip, (T, D).
        max_rows: Maximum number of rows, at least 1.

    Returns:
        The rows unchanged, (T, D), or the means of ``max_rows`` segments, (max_rows, D).
    """
    if len(rows) <= max_rows:
        return rows
    ends = np.linspace(0, len(rows), max_rows + 1).astype(np.int64)
    return pool_segments(rows, np.diff(ends), "mean")


def split_halves(values: NDArray[np.float32], pool: PoolOrFrames) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Split concatenated features of two inputs: (..., D) -> (..., D / 2) twice.

    Args:
        values: Features pooled with ``pool``; each statistic of ``mean_std`` holds the columns of both inputs.
        pool: Pooling of the features.
    """
    statistics = 2 if pool == "mean_std" else 1
    columns = values.reshape(*values.shape[:-1], statistics, 2, -1)
    rows = (*values.shape[:-1], values.shape[-1] // 2)
    return columns[..., 0, :].reshape(rows), columns[..., 1, :].reshape(rows)


def weighted_f1(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Return the weighted F1 as the evaluation of MER2025 computes it: ``f1_score(..., average="weighted")``.

    Args:
        truth: True labels, (n,): names or indices.
        predicted: Predicted labels, (n,).
    """
    from sklearn.metrics import f1_score

    return float(f1_score(truth, predicted, average="weighted", zero_division=0))


def scores(truth: ArrayLike, predicted: ArrayLike, labels: Sequence[str]) -> dict[str, object]:
    """Return weighted F1, accuracy, clip count and per-class precision, recall, F1 and support.

    Args:
        truth: True labels, (n,): names, or int64 indices.
        predicted: Predicted labels, (n,), in the same form.
        labels: All labels, in the order of the report.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    truth = np.asarray(truth)
    names = range(len(labels)) if truth.dtype == np.int64 else labels
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=list(names), zero_division=0
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


def confusion(truth: Ints, predicted: Ints, classes: int) -> Ints:
    """Return the confusion matrix, (C, C), for indices (n,): rows are true labels, columns are predicted labels."""
    from sklearn.metrics import confusion_matrix

    counts: Ints = confusion_matrix(truth, predicted, labels=list(range(classes))).astype(np.int64)
    return counts


def expected_calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 10) -> float:
    """Return the expected calibration error over equal-width bins (Guo et al. 2017, arXiv 1706.04599, eq. 3).

    Args:
        confidence: Probability of each prediction, (n,).
        correct: Whether each prediction is correct, (n,).
        bins: Number of bins.
    """
    if len(confidence) == 0:
        return float("nan")
    bin_of_each = np.clip((confidence * bins).astype(int), 0, bins - 1)
    error = 0.0
    for index in range(bins):
        in_bin = bin_of_each == index
        if in_bin.any():
            error += in_bin.mean() * abs(confidence[in_bin].mean() - correct[in_bin].mean())
    return float(error)


def calibration_error_by_chance(
    confidence: NDArray[np.float64], *, rng: np.random.Generator, draws: int = 200, bins: int = 10
) -> float:
    """Return the mean expected calibration error of perfectly calibrated probabilities.

    The error of n clips is positive even if each probability is right, and falls with n. It is simulated: each
    prediction is correct with its own probability.

    Args:
        confidence: Probability of each prediction, (n,).
        rng: Random generator.
        draws: Number of simulations.
        bins: Number of bins, as of `expected_calibration_error`.
    """
    if len(confidence) == 0:
        return float("nan")
    bin_of_each = np.clip((confidence * bins).astype(int), 0, bins - 1)
    in_bin = np.eye(bins)[bin_of_each]  # (n, bins)
    correct = rng.random((draws, len(confidence))) < confidence  # (draws, n)
    return float(np.abs((correct - confidence) @ in_bin).sum(axis=1).mean() / len(confidence))


def bootstrap_difference(
    first: NDArray[Any],
    second: NDArray[Any],
    truth: NDArray[Any],
    *,
    rng: np.random.Generator,
    groups: NDArray[Any] | None = None,
    draws: int = 1000,
) -> tuple[float, float, float]:
    """Return ``weighted_f1(first) - weighted_f1(second)`` with a paired bootstrap interval.

    The interval is a percentile interval (Efron & Tibshirani 1993).

    Args:
        first: Predictions of one model, (n,): names or indices of labels.
        second: Predictions of the other model on the same clips, (n,).
        truth: True labels, (n,).
        rng: Random generator.
        groups: Speaker or dialogue of each clip, (n,). If given, whole groups are drawn, since clips of one group are
            not independent.
        draws: Number of bootstrap samples.

    Returns:
        The difference and the bounds of its 95% interval.
    """
    difference, samples = bootstrap_samples(first, second, truth, rng=rng, groups=groups, draws=draws)
    low, high = np.quantile(samples, [0.025, 0.975])
    return difference, float(low), float(high)


def bootstrap_f1(
    predicted: NDArray[Any],
    truth: NDArray[Any],
    *,
    rng: np.random.Generator,
    groups: NDArray[Any] | None = None,
    draws: int = 1000,
) -> tuple[float, float]:
    """Return the bounds of the 95% interval of ``weighted_f1``; see `bootstrap_difference`."""
    # A label that no clip has scores 0, so the difference to it is the score itself.
    is_text = truth.dtype.kind == "U"
    unknown = np.full(len(truth), "\0 no label" if is_text else min(truth.min(initial=0), predicted.min(initial=0)) - 1)
    return bootstrap_difference(predicted, unknown, truth, rng=rng, groups=groups, draws=draws)[1:]


def bootstrap_samples(
    first: NDArray[Any],
    second: NDArray[Any],
    truth: NDArray[Any],
    *,
    rng: np.random.Generator,
    groups: NDArray[Any] | None = None,
    draws: int = 1000,
) -> tuple[float, NDArray[np.float64]]:
    """Return the difference of `bootstrap_difference` and its bootstrap samples, (draws,).

    The samples are exact and need little memory. Clips with equal truth and equal predictions are interchangeable, so a
    sample of clips is a multinomial draw of the numbers of clips of each kind. A sample of groups needs the number of
    clips of each kind in each group only, and the draws are made block by block.
    """
    names, codes = np.unique(np.concatenate([truth, first, second]), return_inverse=True)
    classes = len(names)
    t, a, b = np.split(codes, 3)
    kinds, kind_of = np.unique((t * classes + a) * classes + b, return_inverse=True)
    sizes = np.bincount(kind_of).astype(np.float64)  # clips of each kind, (J,)

    def differences(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the difference for numbers of clips of each kind, (n, J)."""
        flat = np.zeros((len(counts), classes**3))
        flat[:, kinds] = counts
        cubes = flat.reshape(-1, classes, classes, classes)
        return weighted_f1_of(cubes.sum(axis=3)) - weighted_f1_of(cubes.sum(axis=2))

    if groups is None:
        samples = differences(rng.multinomial(len(truth), sizes / sizes.sum(), size=draws).astype(np.float64))
    else:
        group_of = np.unique(groups, return_inverse=True)[1]
        n_groups = int(group_of.max()) + 1
        counts = sparse.coo_array((np.ones(len(truth)), (kind_of, group_of)), shape=(len(kinds), n_groups)).tocsr()
        shares = np.full(n_groups, 1 / n_groups)
        parts = []
        for start in range(0, draws, size := max(1, _DRAWN_NUMBERS // n_groups)):
            times = rng.multinomial(n_groups, shares, size=min(size, draws - start))  # (m, U)
            parts.append(differences((counts @ times.T.astype(np.float64)).T))
        samples = np.concatenate(parts)
    return float(differences(sizes[None])[0]), samples


def weighted_f1_of(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted F1 of each confusion matrix, (n, C, C) -> (n,); a class without clips counts 0."""
    correct = np.diagonal(confusions, axis1=1, axis2=2)  # (n, C)
    support, predicted = confusions.sum(axis=2), confusions.sum(axis=1)
    f1 = np.divide(2 * correct, support + predicted, out=np.zeros_like(correct), where=support + predicted > 0)
    weighted: NDArray[np.float64] = (f1 * support).sum(axis=1) / support.sum(axis=1)
    return weighted


def assign_folds(
    labels: NDArray[np.int64], groups: Iterable[Any] | None, folds: int, *, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Assign clips to folds with similar label shares; no group is split across folds.

    Args:
        labels: Class indices, (n,); -1 (no label) counts as one more class.
        groups: Speaker or dialogue of each clip, (n,), see `group_names`; each "" is a separate group. None if no
            group is known.
        folds: Number of folds. Fewer are made if there are fewer groups, or fewer than two clips for each fold.
        rng: Random generator.

    Returns:
        The fold of each clip, (n,), from 0; no fold is empty.

    Raises:
        TooFewClips: If there are fewer than four clips, fewer than two labels, or only one group.
    """
    clips = len(labels)
    classes = np.unique(labels[labels >= 0])
    if clips < 4 or len(classes) < 2:
        raise TooFewClips(
            f"{clips} clips with {format_count(len(classes), 'distinct label')} are too few for cross-validation",
            "label at least four clips with at least two different labels",
        )
    indices = group_indices(groups)
    folds = min(folds, clips // 2)
    if indices is None:
        return _stratified_folds(labels, folds, rng)
    n_groups = len(np.unique(indices))
    if n_groups < 2:
        raise TooFewClips(
            "all labelled clips belong to one group, which cannot be held out",
            "label clips of another speaker, or leave the group column empty",
        )
    return _grouped_folds(labels, indices, min(folds, n_groups), rng)


def validation_rows(
    labels: NDArray[np.int64], groups: Iterable[Any] | None, share: float, *, part: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return a mask of the rows of a training set that form the validation split for early stopping, (n,).

    The split consists of whole groups if at least `MIN_GROUPS_TO_VALIDATE` are known. Otherwise its rows are drawn by
    label: early stopping is then slightly optimistic, but the evaluated fold stays unseen.

    Args:
        labels: Class indices, (n,).
        groups: As for `assign_folds`.
        share: Share of rows in the validation split.
        part: Index of the split, so that models of one fold use different validation splits.
        rng: Random generator; equal states give splits that do not overlap.
    """
    parts = max(2, round(1 / share))
    indices = group_indices(groups)
    n_groups = 0 if indices is None else len(np.unique(indices))
    if indices is None or n_groups < MIN_GROUPS_TO_VALIDATE:
        part_of_each = _deal_by_label(labels, parts, rng)
    else:
        part_of_each = _grouped_folds(labels, indices, min(parts, n_groups), rng)
    is_validation: NDArray[np.bool_] = part_of_each == part % (int(part_of_each.max()) + 1)
    return is_validation


def group_indices(groups: Iterable[Any] | None) -> NDArray[np.int64] | None:
    """Return the groups as integers, (n,), with a separate integer for each ""; None if all are ""."""
    names = [] if groups is None else group_names(groups)
    if not any(names):
        return None
    index_of = {name: index for index, name in enumerate(sorted(set(names) - {""}))}
    unused = iter(range(len(index_of), len(index_of) + len(names)))
    return np.array([index_of[name] if name else next(unused) for name in names], dtype=np.int64)


def _stratified_folds(labels: NDArray[np.int64], folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    from sklearn.model_selection import StratifiedKFold

    if np.unique(labels, return_counts=True)[1].max() < folds:  # StratifiedKFold would raise
        return _deal_by_label(labels, folds, rng)
    return _test_fold_of_each_row(
        StratifiedKFold(folds, shuffle=True, random_state=int(rng.integers(2**31))), labels, None
    )


def _grouped_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    if np.unique(labels, return_counts=True)[1].max() >= folds:  # otherwise StratifiedGroupKFold would raise
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=int(rng.integers(2**31)))
        assigned = _test_fold_of_each_row(splitter, labels, groups)
        if len(np.unique(assigned)) == folds:  # its greedy algorithm may leave a fold empty
            return assigned
    return _test_fold_of_each_row(GroupKFold(folds), labels, groups)


def _deal_by_label(labels: NDArray[np.int64], folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Shuffle the rows, sort them by label and assign them to the folds in turn; works for classes of any size."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    assigned = np.empty(len(labels), dtype=np.int64)
    assigned[order] = np.arange(len(labels)) % folds
    return assigned


def _test_fold_of_each_row(
    splitter: Any, labels: NDArray[np.int64], groups: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    assigned = np.full(len(labels), -1, dtype=np.int64)
    with warnings.catch_warnings():
        # Folds without a rare class are still evaluated on the other classes.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
            assigned[held_out] = fold
    return assigned


def group_names(groups: Iterable[Any]) -> list[str]:
    """Return the groups as strings, (n,), with "" for missing ones (None, NaN, pandas' NA); 0 is a valid group.

    Args:
        groups: Speaker or dialogue of each clip, (n,): strings, numbers, or objects with distinct `str` values.

    Raises:
        ValueError: If they are not one column.
    """
    if isinstance(groups, str) or len(getattr(groups, "shape", (0,))) != 1:
        raise ValueError(f"groups must be (n,), not {getattr(groups, 'shape', groups)!r}")
    return ["" if is_missing(group) else str(group) for group in groups]


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, or pandas' NA or NaT."""
    if isinstance(value, Real):
        return bool(value != value)  # true for NaN only
    return value is None or type(value).__name__ in {"NAType", "NaTType"}  # avoids importing pandas
