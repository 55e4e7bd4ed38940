"""Columns that callers hand in beside the features, whatever they keep them in: lists, arrays or pandas' series.

Rows are told apart by their position alone, never by the index of a series.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any


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
