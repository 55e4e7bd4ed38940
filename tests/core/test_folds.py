from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ecmf_pipeline.core.arrays import assign_folds, validation_rows
from ecmf_pipeline.core.errors import InputError


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


clips = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["", "ann", "bob", "cy", "di", "eve"])), min_size=4, max_size=40
)


@settings(max_examples=100, deadline=None)
@given(rows=clips, wanted=st.integers(2, 7))
def test_folds_are_full_and_never_tear_a_group(rows: list[tuple[int, str]], wanted: int) -> None:
    labels, groups = np.array([label for label, _ in rows]), [group for _, group in rows]
    kinds = len(set(groups) - {""}) + groups.count("")
    assume(len(set(labels)) > 1 and kinds > 1)
    folds = assign_folds(labels, groups, wanted, rng=rng())
    count = len(set(folds.tolist()))
    assert 2 <= count <= wanted
    assert sorted(set(folds.tolist())) == list(range(count))
    for name in set(groups) - {""}:
        assert len({fold for fold, group in zip(folds, groups, strict=True) if group == name}) == 1
    np.testing.assert_array_equal(folds, assign_folds(labels, groups, wanted, rng=rng()))


NUMBERS = {"": None, "ann": 0, "bob": 1, "cy": 2, "di": -1, "eve": 7}


def backwards(values: Sequence[Any]) -> pd.Series[Any]:
    """A series whose index says other rows than its positions."""
    return pd.Series(list(values), index=range(len(values))[::-1])


KEPT: dict[str, Callable[[list[str]], Any]] = {
    "array of words": np.array,
    "series of words": backwards,
    "series of words and None": lambda groups: backwards([group or None for group in groups]),
    "whole numbers": lambda groups: [NUMBERS[group] for group in groups],
    "numbers of NumPy": lambda groups: [np.int64(NUMBERS[group]) if group else np.nan for group in groups],
    "array of numbers": lambda groups: np.array([NUMBERS[group] if group else np.nan for group in groups]),
    "series of numbers": lambda groups: backwards([NUMBERS[group] for group in groups]),
    "series of nullable numbers": lambda groups: backwards([NUMBERS[group] for group in groups]).astype("Int64"),
}


@settings(max_examples=200, deadline=None)
@given(rows=clips, wanted=st.integers(2, 7), kept=st.sampled_from(sorted(KEPT)))
def test_groups_are_never_torn_whatever_they_are_kept_in(rows: list[tuple[int, str]], wanted: int, kept: str) -> None:
    labels, groups = np.array([label for label, _ in rows]), [group for _, group in rows]
    assume(len(set(labels)) > 1 and len(set(groups) - {""}) + groups.count("") > 1)
    folds = assign_folds(labels, KEPT[kept](groups), wanted, rng=rng())
    for name in set(groups) - {""}:
        assert len({fold for fold, group in zip(folds, groups, strict=True) if group == name}) == 1
    if "words" in kept:
        np.testing.assert_array_equal(folds, assign_folds(labels, groups, wanted, rng=rng()))


def test_a_group_of_whole_numbers_without_holes_is_known_by_its_number() -> None:
    numbers = np.arange(40, dtype=np.uint8) % 5
    folds = assign_folds(np.arange(40) % 4, numbers, 5, rng=rng())
    words = assign_folds(np.arange(40) % 4, [str(number) for number in numbers], 5, rng=rng())
    np.testing.assert_array_equal(folds, words)
    assert [len(set(folds[numbers == number])) for number in range(5)] == [1] * 5
    aside = validation_rows(np.arange(40) % 4, numbers, 0.2, part=0, rng=rng())
    assert len(set(numbers[aside])) == 1


@settings(max_examples=50, deadline=None)
@given(rows=clips, share=st.sampled_from([0.1, 0.2, 0.5]), part=st.integers(0, 5))
def test_validation_keeps_some_rows_aside_and_leaves_some(rows: list[tuple[int, str]], share: float, part: int) -> None:
    labels, groups = np.array([label for label, _ in rows]), [group for _, group in rows]
    aside = validation_rows(labels, groups, share, part=part, rng=rng())
    assert 0 < aside.sum() < len(rows)


def test_validation_never_tears_a_group_where_there_are_enough() -> None:
    labels, groups = np.arange(40) % 4, [f"speaker{i % 5}" for i in range(40)]
    parts = [validation_rows(labels, groups, 0.2, part=part, rng=rng()) for part in range(5)]
    for aside in parts:
        kept = {group for group, one in zip(groups, aside, strict=True) if one}
        assert len(kept) == 1
        assert aside.sum() == 8
    np.testing.assert_array_equal(np.sum(parts, axis=0), 1)


def test_validation_of_two_groups_does_not_take_half() -> None:
    groups = ["ann"] * 10 + ["bob"] * 10
    assert validation_rows(np.arange(20) % 2, groups, 0.2, part=0, rng=rng()).sum() == 4


def test_folds_are_alike_in_their_labels() -> None:
    labels = np.array([0] * 50 + [1] * 25)
    folds = assign_folds(labels, None, 5, rng=rng())
    for fold in range(5):
        assert np.bincount(labels[folds == fold]).tolist() == [10, 5]


@pytest.mark.parametrize(
    ("count", "groups", "expected"),
    [(12, [f"speaker{i % 3}" for i in range(12)], 3), (20, None, 5), (20, [""] * 20, 5), (6, None, 3)],
)
def test_tiny_sets_get_what_folds_they_allow(count: int, groups: list[str] | None, expected: int) -> None:
    folds = assign_folds(np.arange(count) % 6, groups, 5, rng=rng())
    assert len(set(folds.tolist())) == expected


@pytest.mark.parametrize(
    ("labels", "groups", "reason"),
    [([0, 1, 0], None, "3 labelled"), ([1] * 9, None, "1 class"), ([0, 1] * 5, ["ann"] * 10, "one group")],
)
def test_what_cannot_be_held_out_is_said_with_a_hint(labels: list[int], groups: list[str] | None, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        assign_folds(np.array(labels), groups, 5, rng=rng())
    assert caught.value.hint


@pytest.mark.parametrize("seed", range(8))
def test_no_fold_is_empty_where_the_greedy_choice_leaves_one_so(seed: int) -> None:
    """Four groups for four folds, of which scikit-learn's StratifiedGroupKFold fills three for some seeds."""
    labels = np.array([3, 1, 0, 0, 1, 0, 0, 2, 3, 0, 0, 2, 1])
    groups = list("abcdbddbadcca")
    folds = assign_folds(labels, groups, 4, rng=np.random.default_rng(seed))
    assert len(set(folds.tolist())) == 4
