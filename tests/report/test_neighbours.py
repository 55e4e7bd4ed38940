"""Near-duplicates and outliers among all clips of a corpus, exact and by cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from ecmf_pipeline.report import neighbours
from ecmf_pipeline.report.neighbours import Neighbours, find_neighbours, find_outliers, nearest_neighbours

SMALL = {"_EXACT": 100, "_CELL": 50, "_LEAST_CANDIDATES": 200, "SAMPLE": 300, "BLOCK": 128}


def make_features(clips: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(7)
    values = {name: rng.normal(size=(clips, dim)).astype(np.float32) for name, dim in (("face", 30), ("text", 20))}
    for matrix in values.values():
        matrix[clips - 1] = matrix[0] + 0.001
    values["text"][3] = np.nan
    values["face"][3] = values["face"][0]  # similar, but only one of the two has a text
    values["face"][6] = values["face"][5]  # similar in one modality
    values["face"][8] = 40.0
    return values


def search(values: dict[str, NDArray[np.float32]]) -> Neighbours:
    names = [f"clip{number}" for number in range(len(values["face"]))]

    def read(some: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        rows = [names.index(name) for name in some]
        return {name: matrix[rows] for name, matrix in values.items()}

    return find_neighbours(names, read)


@pytest.mark.parametrize("clips", [40, 600])
def test_near_duplicates_are_similar_in_each_modality(clips: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(neighbours, name, value)
    found = search(make_features(clips))
    ((first, second, similarity),) = found.duplicates
    assert {first, second} == {"clip0", f"clip{clips - 1}"}
    assert similarity > 0.99
    assert found.outliers[0][0] == "clip8"
    assert found.clips == clips
    assert found == search(make_features(clips))


def test_pairs_have_the_least_cosine_of_all_features() -> None:
    values = make_features(40)
    values["text"][-1] += np.random.default_rng(1).normal(size=20).astype(np.float32) * 0.05
    ((_, _, similarity),) = search(values).duplicates
    standard = {name: (m - np.nanmean(m, axis=0)) / np.nanstd(m, axis=0) for name, m in values.items()}
    pairs = [(matrix[0], matrix[-1]) for matrix in standard.values()]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
    assert similarity == pytest.approx(min(cosines), abs=1e-4)


def test_neighbours_in_cells_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(30, 8))[rng.integers(0, 30, 1500)] * 4 + rng.normal(size=(1500, 8))).astype(np.float32)
    points[100:130] = points[99]  # more equal points than neighbours
    exact, rows = nearest_neighbours(points, 5)
    for name, value in SMALL.items():
        monkeypatch.setattr(neighbours, name, value)
    near, found = nearest_neighbours(points, 5)
    assert (found != np.arange(1500)[:, None]).all()
    assert (near[99:130] == 0).all()
    others = np.delete(np.arange(1500), np.s_[99:130])
    same = [len(set(rows[row]) & set(found[row])) / 5 for row in others]
    assert np.mean(same) > 0.98
    assert (near >= exact - 1e-3).all()


def test_outliers_are_far_from_all_other_clips() -> None:
    distances = 1 + 0.1 * np.random.default_rng(1).random(60)
    distances[5] = 12.0
    ((row, distance),) = find_outliers(distances)
    assert row == 5
    assert distance == pytest.approx(12 / np.median(distances))
    assert find_outliers(np.ones(4)) == []


@pytest.mark.parametrize("clips", [0, 1, 2])
def test_few_clips_have_no_neighbours(clips: int) -> None:
    values = {"face": np.ones((clips, 4), np.float32)}
    assert search(values) == Neighbours(0)
    values["face"][:1] = 2
    assert search(values) == Neighbours(clips if clips > 1 else 0)
