from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ecmf_pipeline.core.arrays import group_names
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import as_given, encode_labels, label_type
from ecmf_pipeline.fusion.training import cross_validate


def test_groups_are_taken_by_position_and_those_unknown_are_no_group() -> None:
    assert (
        group_names([0, False, "ann", None, np.nan, float("nan"), pd.NA, pd.NaT, ""])
        == ["0", "False", "ann"] + [""] * 6
    )
    assert group_names(pd.Series([3, 1, 2], index=[2, 0, 1])) == ["3", "1", "2"]
    assert group_names(pd.Categorical(["b", None, "a"])) == ["b", "", "a"]
    for wrong in ("ann", np.zeros((3, 1)), np.array(1)):
        with pytest.raises(ValueError, match="groups must be"):
            group_names(wrong)


@pytest.mark.parametrize(
    ("labels", "indices", "names"),
    [
        (["b", None, "a", np.nan, ""], [1, -1, 0, -1, -1], ("a", "b")),
        (np.array(["b", None, "a"], dtype=object), [1, -1, 0], ("a", "b")),
        (pd.Series(["b", None, "a"], index=[2, 0, 1]), [1, -1, 0], ("a", "b")),
        (pd.Categorical(["b", None, "a"]), [1, -1, 0], ("a", "b")),
        ([1, None, 0, -1], [1, -1, 0, -1], ("0", "1")),
        ([1, pd.NA, 2], [1, -1, 2], ("0", "1", "2")),
        (pd.Series([1, None, 2]), [1, -1, 2], ("0", "1", "2")),
        (pd.Series([1, None, 2], dtype="Int64"), [1, -1, 2], ("0", "1", "2")),
        ([1.0, np.nan, 0.0], [1, -1, 0], ("0", "1")),
        (np.array([1.0, np.nan, 0.0], np.float32), [1, -1, 0], ("0", "1")),
        ([True, False], [1, 0], ("0", "1")),
        (np.array([True, False]), [1, 0], ("0", "1")),
        ([True, None], [1, -1], ("0", "1")),
        (np.array([3, 1], np.uint8), [3, 1], ("0", "1", "2", "3")),
        (["3", "1"], [1, 0], ("1", "3")),
        ([None, np.nan], [-1, -1], ()),
    ],
)
def test_labels_of_all_sorts(labels: Any, indices: list[int], names: tuple[str, ...]) -> None:
    found, known = encode_labels(labels)
    assert (found.tolist(), known) == (indices, names)
    assert found.dtype == np.int64
    shown = as_given(found, known, label_type(labels))
    for given, one in zip(labels, shown.tolist(), strict=True):
        assert one in ("", -1) if pd.isna(given) or given == "" else one == given


def test_predictions_are_of_the_type_of_the_labels() -> None:
    assert [label_type(labels) for labels in ([0, 1], [True], [1, None], [1.0, None], ["a", None])] == [
        "index", "index", "index", "float", "name",
    ]  # fmt: skip
    classes = np.array([1, -1])
    assert as_given(classes, ("a", "b"), "name").tolist() == ["b", ""]
    assert as_given(classes, ("a", "b"), "index").dtype == np.int64
    assert as_given(classes, ("a", "b"), "float").dtype == np.float64


@pytest.mark.parametrize(
    ("labels", "names", "reason"),
    [
        ([0.0, 0.5], None, "label 0.5 is not a class index"),
        ([0.0, np.inf], None, "label inf is not a class index"),
        ([0.0, 1e30], None, "1e.30 is not a class index"),
        (["a", 1], None, "mix names and numbers: 'a' and 1"),
        (["a", "b"], ["a", "b", "b"], "twice"),
        ([0, 1], ["a", "a"], "twice"),
        ([0, 2], ["a", "b"], "indices 0 to 2 where 2"),
        ([0, -2], None, "indices -2 to 0"),
        (["a", "c"], ["a", "b"], "'c' is unknown"),
    ],
)
def test_labels_that_mean_nothing_are_refused(labels: Any, names: list[str] | None, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        encode_labels(labels, names)


@pytest.mark.parametrize("labels", [[[0], [1]], np.zeros((3, 1), int), "abc", 3])
def test_labels_are_one_column(labels: Any) -> None:
    with pytest.raises(ValueError, match="labels must be"):
        encode_labels(labels)


def test_clips_without_a_label_are_not_learned_from_whatever_says_so(
    corpus: Any, small: FusionConfig, quick: TrainingConfig
) -> None:
    names = np.array(["calm", "glad", "hurt"])[corpus.labels].astype(object)
    gone = np.arange(48) % 8 == 3
    found = []
    for labels in (np.where(gone, "", names), np.where(gone, None, names), np.where(gone, np.nan, names),
                   np.where(gone, -1, corpus.labels), np.where(gone, np.nan, corpus.labels)):  # fmt: skip
        result = cross_validate(corpus.features, labels, corpus.groups, fusion=small, training=quick)
        np.testing.assert_array_equal(result.predictions, as_given(result.probs.argmax(axis=1),
                                      result.ensemble.label_names, label_type(labels)))  # fmt: skip
        assert result.metrics["clips"] == 42
        found.append(result.probs)
    for probs in found[1:]:
        np.testing.assert_array_equal(probs, found[0])


def test_class_indices_are_the_columns_of_probabilities(
    corpus: Any, small: FusionConfig, quick: TrainingConfig
) -> None:
    result = cross_validate(corpus.features, corpus.labels + 1.0, corpus.groups, fusion=small, training=quick)
    assert result.probs.shape == (48, 4)
    assert result.predictions.dtype == np.float64
    np.testing.assert_array_equal(result.predictions, result.probs.argmax(axis=1))
    assert result.metrics["accuracy"] == pytest.approx((result.predictions == corpus.labels + 1).mean(), abs=1e-6)
