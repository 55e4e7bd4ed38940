"""Clips to check: label errors as cleanlab finds them, and a map of the fusion's decisions that never changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecmf_pipeline.core.predictions import NO_MODALITY, PredictionTable
from ecmf_pipeline.report.checks import find_label_issues, map_decisions, map_features


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


def predictions(clips: int, *, branches: bool = True) -> PredictionTable:
    """Return predictions of a fusion of face and text for three labels; clip 2 has no modality, clip 3 no text."""
    rng = np.random.default_rng(7)
    text = np.arange(clips) != 3
    weights = np.stack([np.where(text, 0.4, 1.0), np.where(text, 0.6, 0.0)], axis=1)
    of_branches = rng.dirichlet(np.ones(3), (clips, 2)).astype(np.float16)
    of_branches[3, 1] = np.nan
    return PredictionTable(
        clip_ids=tuple(f"clip{number}" for number in range(clips)),
        splits=("train",) * clips,
        out_of_fold=np.ones(clips, np.bool_),
        flags=tuple(NO_MODALITY if number == 2 else "" for number in range(clips)),
        label_names=("angry", "happy", "sad"),
        probs=rng.dirichlet(np.ones(3), clips).astype(np.float32),
        modalities=("face", "text"),
        modality_weights=weights.astype(np.float32),
        branches=("face", "text") if branches else (),
        branch_probs=of_branches if branches else None,
    )


@pytest.mark.parametrize(("clips", "method"), [(12, "Principal"), (40, "t-SNE")])
@pytest.mark.parametrize("branches", [True, False])
def test_the_map_holds_all_predicted_clips_and_never_changes(clips: int, method: str, branches: bool) -> None:
    table = predictions(clips, branches=branches)
    first, again = (map_decisions(table, range(clips)) for _ in range(2))
    assert first is not None
    assert again is not None
    assert first.method.startswith(method)
    assert ("each modality" in first.method) == branches
    assert set(first.clip_ids) == set(table.clip_ids) - {"clip2"}
    assert np.array_equal(first.points, again.points)
    assert first.points.min() == 0
    assert first.points.max() == 1


def test_the_map_places_clips_by_the_weighted_contribution_of_each_modality() -> None:
    table = predictions(12)
    probs = np.full((12, 3), 1 / 3, np.float32)  # the decisions are equal: only contributions differ
    of_branches = np.full((12, 2, 3), 1 / 3, np.float16)
    of_branches[:6, 0] = [0.8, 0.1, 0.1]
    of_branches[:3, 1] = [0.1, 0.8, 0.1]
    weights = np.tile(np.array([1, 0], np.float32), (12, 1))  # the second branch does not contribute
    changed = map_decisions(
        replace(table, probs=probs, branch_probs=of_branches, modality_weights=weights, flags=("",) * 12), range(12)
    )
    assert changed is not None
    places = {tuple(point) for point in changed.points.round(6).tolist()}
    assert len(places) == 2
    assert len({tuple(point) for point in changed.points[:6].round(6).tolist()}) == 1


def test_without_a_fusion_the_map_shows_features() -> None:
    rng = np.random.default_rng(7)
    values = {name: rng.normal(size=(40, 20)).astype(np.float32) for name in ("face", "text")}
    values["face"][2] = values["text"][2] = np.nan
    values["text"][3] = np.nan
    names = [f"clip{number}" for number in range(40)]
    found = map_features(values, rng.dirichlet(np.ones(3), 40), names)
    assert found is not None
    assert set(found.clip_ids) == set(names) - {"clip2"}
    assert "features" in found.method


def test_too_few_clips_have_no_map() -> None:
    assert map_features({"face": np.ones((2, 3))}, np.ones((2, 2)), ["a", "b"]) is None
    assert map_decisions(predictions(5), [0, 1, 2]) is None
