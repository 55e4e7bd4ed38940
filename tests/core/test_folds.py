"""Tests of folds and validation splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ecmf_pipeline.core.arrays import assign_folds, validation_rows
from ecmf_pipeline.core.errors import TooFewClips


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


clips = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["", "ann", "bob", "cy", "di", "eve"])), min_size=4, max_size=40
)


@settings(max_examples=100, deadline=None)
@given(rows=clips, n_folds=st.integers(2, 7))
def test_folds_are_not_empty_and_groups_are_not_split(rows: list[tuple[int, str]], n_folds: int) -> None:
    labels, groups = np.array([label for label, _ in rows]), [group for _, group in rows]
    n_groups = len(set(groups) - {""}) + groups.count("")
    assume(len(set(labels)) > 1 and n_groups > 1)
    folds = assign_folds(labels, groups, n_folds, rng=rng())
    count = len(set(folds.tolist()))
    assert 2 <= count <= n_folds
    assert sorted(set(folds.tolist())) == list(range(count))
    for name in set(groups) - {""}:
        assert len({fold for fold, group in zip(folds, groups, strict=True) if group == name}) == 1
    np.testing.assert_array_equal(folds, assign_folds(labels, groups, n_folds, rng=rng()))


NUMBERS = {"": None, "ann": 0, "bob": 1, "cy": 2, "di": -1, "eve": 7}


def series(values: Sequence[Any]) -> pd.Series[Any]:
    """Return a series whose index differs from the positions of its values."""
    return pd.Series(list(values), index=range(len(values))[::-1])


CONTAINERS: dict[str, Callable[[list[str]], Any]] = {
    "array of strings": np.array,
    "series of strings": series,
    "series of strings and None": lambda groups: series([group or None for group in groups]),
    "integers": lambda groups: [NUMBERS[group] for group in groups],
    "NumPy integers": lambda groups: [np.int64(NUMBERS[group]) if group else np.nan for group in groups],
    "array of numbers": lambda groups: np.array([NUMBERS[group] if group else np.nan for group in groups]),
    "series of numbers": lambda groups: series([NUMBERS[group] for group in groups]),
    "series of nullable numbers": lambda groups: series([NUMBERS[group] for group in groups]).astype("Int64"),
}


@settings(max_examples=200, deadline=None)
@given(rows=clips, n_folds=st.integers(2, 7), container=st.sampled_from(sorted(CONTAINERS)))
def test_groups_in_any_container_are_not_split(rows: list[tuple[int, str]], n_folds: int, container: str) -> None:
    labels, groups = np.array([label for label, _ in rows]), [group for _, group in rows]
    assume(len(set(labels)) > 1 and len(set(groups) - {""}) + groups.count("") > 1)
    folds = assign_folds(labels, CONTAINERS[container](groups), n_folds, rng=rng())
    for name in set(groups) - {""}:
        assert len({fold for fold, group in zip(folds, groups, strict=True) if group == name}) == 1
    if "strings" in container:
        np.testing.assert_array_equal(folds, assign_folds(labels, groups, n_folds, rng=rng()))


def test_integer_groups_give_the_same_folds_as_strings() -> None:
    numbers = np.arange(40, dtype=np.uint8) % 5
    folds = assign_folds(np.arange(40) % 4, numbers, 5, rng=rng())
    expected = assign_folds(np.arange(40) % 4, [str(number) for number in numbers], 5, rng=rng())
    np.testing.assert_array_equal(folds, expected)
    assert [len(set(folds[numbers == number])) for number in range(5)] == [1] * 5
    is_validation = validation_rows(np.arange(40) % 4, numbers, 0.2, part=0, rng=rng())
    assert len(set(numbers[is_validation])) == 1


@settings(max_examples=50, deadline=None)
@given(rows=clips, share=st.sampled_from([0.1, 0.2, 0.5]), part=st.integers(0, 5))
def test_validation_split_is_neither_empty_nor_everything(rows: list[tuple[int, str]], share: float, part: int) -> None:
    labels, groups = np.array([label for label, _ in rows]), [group for _, group in rows]
    is_validation = validation_rows(labels, groups, share, part=part, rng=rng())
    assert 0 < is_validation.sum() < len(rows)


def test_validation_split_of_enough_groups_splits_no_group() -> None:
    labels, groups = np.arange(40) % 4, [f"speaker{i % 5}" for i in range(40)]
    parts = [validation_rows(labels, groups, 0.2, part=part, rng=rng()) for part in range(5)]
    for is_validation in parts:
        held_out = {group for group, selected in zip(groups, is_validation, strict=True) if selected}
        assert len(held_out) == 1
        assert is_validation.sum() == 8
    np.testing.assert_array_equal(np.sum(parts, axis=0), 1)


def test_validation_split_of_two_groups_has_the_requested_share() -> None:
    groups = ["ann"] * 10 + ["bob"] * 10
    assert validation_rows(np.arange(20) % 2, groups, 0.2, part=0, rng=rng()).sum() == 4


def test_folds_have_equal_label_shares() -> None:
    labels = np.array([0] * 50 + [1] * 25)
    folds = assign_folds(labels, None, 5, rng=rng())
    for fold in range(5):
        assert np.bincount(labels[folds == fold]).tolist() == [10, 5]


@pytest.mark.parametrize(
    ("count", "groups", "expected"),
    [(12, [f"speaker{i % 3}" for i in range(12)], 3), (20, None, 5), (20, [""] * 20, 5), (6, None, 3)],
)
def test_small_sets_get_fewer_folds(count: int, groups: list[str] | None, expected: int) -> None:
    folds = assign_folds(np.arange(count) % 6, groups, 5, rng=rng())
    assert len(set(folds.tolist())) == expected


@pytest.mark.parametrize(
    ("labels", "groups", "reason"),
    [([0, 1, 0], None, "3 clips"), ([1] * 9, None, "1 distinct label"), ([0, 1] * 5, ["ann"] * 10, "one group")],
)
def test_too_few_clips_labels_or_groups_are_rejected_with_a_hint(
    labels: list[int], groups: list[str] | None, reason: str
) -> None:
    with pytest.raises(TooFewClips, match=reason) as caught:
        assign_folds(np.array(labels), groups, 5, rng=rng())
    assert caught.value.hint


@pytest.mark.parametrize("seed", range(8))
def test_no_fold_is_empty_if_the_greedy_algorithm_leaves_one_empty(seed: int) -> None:
    """Four groups for four folds, of which scikit-learn's StratifiedGroupKFold fills three for some seeds."""
    labels = np.array([3, 1, 0, 0, 1, 0, 0, 2, 3, 0, 0, 2, 1])
    groups = list("abcdbddbadcca")
    folds = assign_folds(labels, groups, 4, rng=np.random.default_rng(seed))
    assert len(set(folds.tolist())) == 4
