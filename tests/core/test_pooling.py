"""Tests of pooling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ecmf_pipeline.core.arrays import average_rows, pool_segments, pooled_width


@given(data=st.data(), pool=st.sampled_from(["mean", "max", "mean_std"]))
def test_pooling_equals_numpy_for_each_clip(data, pool):
    lengths = np.array(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=8)), np.int64)
    values = data.draw(arrays(np.float32, (int(lengths.sum()), 3), elements=st.floats(-100, 100, width=32)))
    pooled = pool_segments(values, lengths, pool)
    assert pooled.shape == (len(lengths), pooled_width(3, pool))
    for rows, vector in zip(np.split(values, np.cumsum(lengths)[:-1]), pooled, strict=True):
        wide = rows.astype(np.float64)
        expected = {"mean": wide.mean(0), "max": wide.max(0), "mean_std": np.concatenate([wide.mean(0), wide.std(0)])}
        np.testing.assert_allclose(vector, expected[pool], atol=5e-3, rtol=1e-4)


@pytest.mark.parametrize("pool", ["mean", "max", "mean_std"])
def test_the_largest_float32_rows_are_pooled_without_overflow(pool):
    largest = np.finfo(np.float32).max
    rows = np.array([[largest, largest], [largest, -largest]], np.float32)
    expected = {"mean": [largest, 0], "max": [largest, largest], "mean_std": [largest, 0, 0, largest]}[pool]
    assert pool_segments(rows, np.array([2]), pool).tolist() == [expected]


@pytest.mark.parametrize("lengths", [[2, 0], [1, 1], [4]])
def test_clip_without_rows_or_wrong_lengths_are_rejected(lengths):
    with pytest.raises(ValueError, match="at least one row"):
        pool_segments(np.zeros((3, 2), np.float32), np.array(lengths), "mean")


def test_pooling_of_no_clips_returns_no_rows():
    assert pool_segments(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), "mean_std").shape == (0, 8)


def test_long_sequence_is_averaged_over_segments_of_nearly_equal_length():
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    assert average_rows(rows, 10) is rows
    assert average_rows(rows, 5).tolist() == [[1, 2], [5, 6], [9, 10], [13, 14], [17, 18]]
    uneven = average_rows(rows, 4)  # segments of 2, 3, 2, 3 rows
    assert uneven[:, 0].tolist() == [1, 6, 11, 16]
    assert average_rows(rows, 1).tolist() == [rows.mean(axis=0).tolist()]
