"""Who is held out when: folds that never tear a group apart."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import TooFewClips

LEAST_GROUPS_TO_VALIDATE = 3
"""With fewer groups in a training part, keeping one aside whole would leave too little to train on."""


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
    return _split(StratifiedKFold(folds, shuffle=True, random_state=_state(rng)), labels, None)


def _grouped(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    if np.unique(labels, return_counts=True)[1].max() >= folds:  # else StratifiedGroupKFold refuses
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=_state(rng))
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


def _state(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


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
