"""From frame-level rows to one vector a clip: pure functions, applied when features are read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.config import Pool, PoolOrFrames

MOST_FRAMES = 32
"""Rows that a sequence has at most where nothing else is said: speech has fifty a second, and all would be padded to
the longest."""


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
