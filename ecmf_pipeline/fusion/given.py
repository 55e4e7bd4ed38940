"""Columns that callers hand in beside the features, whatever they keep them in: lists, arrays or pandas' series.

Rows are told apart by their position alone, never by the index of a series.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecmf_pipeline.errors import InputError

LabelType = Literal["index", "float", "name"]
"""Labels are class indices (bools are), indices that were handed in as floats, or names."""

_NUMBERS = "biuf"
_LARGEST_INDEX = 10.0**6


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


def encode_labels(
    labels: ArrayLike, label_names: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as indices (-1 where there is none) and the names they stand for.

    Args:
        labels: Class indices, (n,), from 0 up, with -1 for none: C is the largest of them plus one, if no
            ``label_names`` say otherwise, so that labels of 1 to 8 make nine classes. Floats that are whole, and bools,
            are indices too. Or names, with "" for none. None, NaN and pandas' NA are none in either.
        label_names: All labels in the order of their indices; None names those that occur, sorted.

    Raises:
        InputError: When a label is not among ``label_names``, these name one twice, floats are not whole, or names and
            numbers are mixed.
        ValueError: When labels are not one column.
    """
    if label_names is not None and len(set(label_names)) < len(label_names):
        raise InputError(f"label_names {list(label_names)} name a label twice", "name each label once")
    values = _column(labels)
    if values.dtype.kind in _NUMBERS:
        return _encode_indices(_whole(values), label_names)
    words = ["" if is_missing(value) else str(value) for value in values.tolist()]
    names = tuple(label_names) if label_names is not None else tuple(sorted(set(words) - {""}))
    index = {name: position for position, name in enumerate(names)} | {"": -1}
    if unknown := sorted(set(words) - set(index)):
        raise InputError(f"label {unknown[0]!r} is unknown", f"the labels are {', '.join(names)}")
    return np.array([index[word] for word in words], dtype=np.int64), names


def label_type(labels: ArrayLike) -> LabelType:
    """What labels are, and predictions of them are to be; see `encode_labels`."""
    kind = _column(labels).dtype.kind
    return "name" if kind not in _NUMBERS else "float" if kind == "f" else "index"


def as_given(classes: NDArray[np.int64], names: Sequence[str], kind: LabelType) -> NDArray[Any]:
    """Class indices as labels of a type, (n,) -> (n,); where there is none (-1), that is -1, or "" among names."""
    if kind == "name":
        return np.array([*names, ""])[classes]  # -1 takes the last, ""
    return classes if kind == "index" else classes.astype(np.float64)


def _column(labels: ArrayLike) -> NDArray[Any]:
    """Labels as an array, (n,); of floats if they are numbers of which some are missing, of objects if names are."""
    # NumPy would turn a list of names and None, or NaN, into names alone.
    values = np.asarray(labels if hasattr(labels, "dtype") else np.array(labels, dtype=object))
    if values.ndim != 1:
        raise ValueError(f"labels must be (n,), not {values.shape}")
    if values.dtype.kind != "O":
        return values
    known = [value for value in values.tolist() if not (is_missing(value) or value == "")]
    numbers = [isinstance(value, Real | np.bool_) for value in known]
    if not any(numbers):
        return values
    if not all(numbers):
        word = known[numbers.index(False)]
        raise InputError(
            f"labels mix names and numbers: {word!r} and {known[numbers.index(True)]!r}", "use one of them"
        )
    kind: type = float if any(isinstance(value, float | np.floating) for value in known) else int
    return np.array([-1 if is_missing(value) or value == "" else value for value in values.tolist()], dtype=kind)


def _whole(values: NDArray[Any]) -> NDArray[np.int64]:
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    found = np.where(np.isnan(values), -1.0, values)
    if (wrong := (found != np.round(found)) | (np.abs(found) > _LARGEST_INDEX)).any():
        raise InputError(
            f"label {found[wrong][0]} is not a class index", "hand in whole numbers from 0 up, or names as strings"
        )
    return found.astype(np.int64)


def _encode_indices(
    indices: NDArray[np.int64], label_names: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    names = tuple(label_names) if label_names is not None else tuple(map(str, range(indices.max(initial=-1) + 1)))
    if len(indices) and not -1 <= indices.min() <= indices.max() < len(names):
        raise InputError(f"label indices {indices.min()} to {indices.max()} where {len(names)} labels are known")
    return indices, names
