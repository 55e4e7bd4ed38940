"""Clips to check: label errors as cleanlab finds them, near-duplicates, outliers, and a map that never changes."""

from __future__ import annotations

import numpy as np
import pytest

from ecmf_pipeline.report.checks import find_duplicates, find_label_issues, find_outliers, map_clips


@pytest.mark.parametrize("seed", range(3))
def test_label_issues_are_those_of_cleanlab(seed: int) -> None:
    from cleanlab.count import compute_confident_joint

    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 300)
    given = np.where(rng.random(300) < 0.2, rng.integers(0, 4, 300), truth)
    logits = rng.normal(size=(300, 4)) + 2.5 * np.eye(4)[truth]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    _, expected = compute_confident_joint(given, probs, calibrate=False, return_indices_of_off_diagonals=True)
    found = find_label_issues(probs, given)
    assert sorted(found) == sorted(expected)
    own = probs[found, given[found]]
    assert (np.diff(own) >= 0).all()


def test_clips_without_label_or_prediction_have_no_issue() -> None:
    probs = np.array([[0.9, 0.1], [0.1, 0.9], [0.95, 0.05], [0.9, 0.1], [np.nan, np.nan]])
    assert find_label_issues(probs, np.array([0, 1, 1, -1, 0])) == [2]
    assert find_label_issues(probs, np.full(5, -1)) == []


def features(clips: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    values = {name: rng.normal(size=(clips, dim)).astype(np.float32) for name, dim in (("face", 30), ("text", 20))}
    for matrix in values.values():
        matrix[1] = matrix[0] + 0.001
    values["text"][3] = np.nan
    values["face"][3] = values["face"][0]  # similar, but only one of the two has a text
    return values


def test_near_duplicates_are_similar_in_each_modality() -> None:
    ((first, second, similarity),) = find_duplicates(features(40))
    assert (first, second) == (0, 1)
    assert similarity > 0.99


def test_outliers_are_far_from_all_other_clips() -> None:
    points = np.random.default_rng(1).normal(size=(60, 3))
    points[5] = 30.0
    (row, distance), *others = find_outliers(points)
    assert row == 5
    assert distance > 10
    assert all(other < 4 for _, other in others)


@pytest.mark.parametrize(("clips", "method"), [(12, "Principal"), (40, "t-SNE")])
def test_the_map_holds_all_clips_with_features_and_never_changes(clips: int, method: str) -> None:
    values = features(clips)
    values["face"][2] = values["text"][2] = np.nan
    probs = np.random.default_rng(2).dirichlet(np.ones(3), clips)
    names = [f"clip{number}" for number in range(clips)]
    first, again = (map_clips(values, probs, names) for _ in range(2))
    assert first is not None
    assert again is not None
    assert first.method.startswith(method)
    assert set(first.clip_ids) == set(names) - {"clip2"}
    assert np.array_equal(first.points, again.points)
    assert first.points.min() == 0
    assert first.points.max() == 1
    assert first.duplicates[0][:2] == ("clip0", "clip1")


def test_too_few_clips_have_no_map() -> None:
    assert map_clips({"face": np.ones((2, 3))}, np.ones((2, 2)), ["a", "b"]) is None
