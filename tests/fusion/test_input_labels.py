"""Conversion of labels and groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ecmf_pipeline.core.arrays import group_names
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import decode_labels, encode_labels, label_type
from ecmf_pipeline.fusion.training import cross_validate


def test_groups_are_read_by_position_and_missing_ones_are_empty() -> None:
    assert (
        group_names([0, False, "ann", None, np.nan, float("nan"), pd.NA, pd.NaT, ""])
        == ["0", "False", "ann"] + [""] * 6
    )
    assert group_names(pd.Series([3, 1, 2], index=[2, 0, 1])) == ["3", "1", "2"]
    assert group_names(pd.Categorical(["b", None, "a"])) == ["b", "", "a"]
    for invalid in ("ann", np.zeros((3, 1)), np.array(1)):
        with pytest.raises(ValueError, match="groups"):
            group_names(invalid)


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
def test_labels_are_encoded_and_decoded(labels: Any, indices: list[int], names: tuple[str, ...]) -> None:
    encoded, label_names = encode_labels(labels)
    assert (encoded.tolist(), label_names) == (indices, names)
    assert encoded.dtype == np.int64
    decoded = decode_labels(encoded, label_names, label_type(labels))
    for label, result in zip(labels, decoded.tolist(), strict=True):
        assert result in ("", -1) if pd.isna(label) or label == "" else result == label


def test_decoded_labels_have_the_type_of_the_labels() -> None:
    assert [label_type(labels) for labels in ([0, 1], [True], [1, None], [1.0, None], ["a", None])] == [
        "index", "index", "index", "float", "name",
    ]  # fmt: skip
    classes = np.array([1, -1])
    assert decode_labels(classes, ("a", "b"), "name").tolist() == ["b", ""]
    assert decode_labels(classes, ("a", "b"), "index").dtype == np.int64
    assert decode_labels(classes, ("a", "b"), "float").dtype == np.float64


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0.0, 0.5], None, "label 0.5 "),
        ([0.0, np.inf], None, "label inf "),
        ([0.0, 1e30], None, "label 1e.30 "),
        (["a", 1], None, "'a' and 1"),
        (["a", "b"], ["a", "b", "b"], "label_names .* twice"),
        ([0, 1], ["a", "a"], "label_names .* twice"),
        ([0, 2], ["a", "b"], "indices 0 to 2 .* 2 labels"),
        ([0, -2], None, "indices -2 to 0"),
        (["a", "c"], ["a", "b"], "'c'"),
    ],
)
def test_invalid_labels_are_rejected(labels: Any, names: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        encode_labels(labels, names)
    assert caught.value.hint


@pytest.mark.parametrize("labels", [[[0], [1]], np.zeros((3, 1), int), "abc", 3])
def test_labels_must_be_one_dimensional(labels: Any) -> None:
    with pytest.raises(ValueError, match="labels"):
        encode_labels(labels)


def test_all_forms_of_a_missing_label_give_the_same_models(
    corpus: Any, small: FusionConfig, quick: TrainingConfig
) -> None:
    names = np.array(["calm", "glad", "hurt"])[corpus.labels].astype(object)
    unlabelled = np.arange(48) % 8 == 3
    all_probs = []
    for labels in (
        np.where(unlabelled, "", names),
        np.where(unlabelled, None, names),
        np.where(unlabelled, np.nan, names),
        np.where(unlabelled, -1, corpus.labels),
        np.where(unlabelled, np.nan, corpus.labels),
    ):
        result = cross_validate(corpus.features, labels, corpus.groups, fusion=small, training=quick)
        expected = decode_labels(result.probs.argmax(axis=1), result.ensemble.label_names, label_type(labels))
        np.testing.assert_array_equal(result.predictions, expected)
        assert result.metrics["clips"] == 42
        all_probs.append(result.probs)
    for probs in all_probs[1:]:
        np.testing.assert_array_equal(probs, all_probs[0])


def test_class_indices_are_columns_of_the_probabilities(
    corpus: Any, small: FusionConfig, quick: TrainingConfig
) -> None:
    result = cross_validate(corpus.features, corpus.labels + 1.0, corpus.groups, fusion=small, training=quick)
    assert result.probs.shape == (48, 4)
    assert result.predictions.dtype == np.float64
    np.testing.assert_array_equal(result.predictions, result.probs.argmax(axis=1))
    assert result.metrics["accuracy"] == pytest.approx((result.predictions == corpus.labels + 1).mean(), abs=1e-6)
