"""Find near-duplicates and outliers among all clips, by their nearest neighbours in the space of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Bools, Floats, Ints
from ecmf_pipeline.labels.selection import JointComponents, is_present

LEAST_SIMILARITY = 0.95
"""Least cosine of standardised features, in each modality of both clips, of near-duplicates."""
MOST_PAIRS = 200
SAMPLE = 10_000
"""Clips to which standardisation, principal components and cells are fitted; all of a smaller corpus."""
BLOCK = 4096
"""Clips whose features are read together."""

_SEED = 0
_NEIGHBOURS = 10
_OUTLIER_DEVIATIONS = 4.0
"""Outliers are farther from their neighbours than the median by this many robust standard deviations."""
_SCREENED_SIMILARITY = 0.9
"""Least cosine of the principal components of pairs whose features are compared."""
_MOST_COMPARED = 2000
_EXACT = 20_000
"""Clips up to which all pairs are compared; among more, those of the nearest cells."""
_CELL, _MOST_CELLS, _LEAST_CANDIDATES = 500, 512, 2000
"""Mean number of clips in a cell, number of cells, and number of clips of the nearest cells that are compared."""

Features = Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True)
class Neighbours:
    """Near-duplicates and outliers among clips.

    Attributes:
        clips: Number of clips with features.
        duplicates: Pairs of near-duplicates and their similarity, the most similar first; at most `MOST_PAIRS`.
        outliers: Clips far from all others and their distance in units of the median, the farthest first.
    """

    clips: int
    duplicates: tuple[tuple[str, str, float], ...] = ()
    outliers: tuple[tuple[str, float], ...] = ()


def find_neighbours(clip_ids: Sequence[str], read: Callable[[Sequence[str]], Features]) -> Neighbours:
    """Find near-duplicates and outliers.

    Near-duplicates are similar in each modality that they have, and have the same modalities.

    Args:
        clip_ids: The clips.
        read: Returns the features of some clips by modality, (n, D) each; a row of NaN if a clip has none.
    """
    sample = np.sort(np.random.default_rng(_SEED).permutation(len(clip_ids))[:SAMPLE])
    components = JointComponents.fit(read([clip_ids[row] for row in sample.tolist()]))
    if not components.fitted:
        return Neighbours(0)
    parts, masks = [], []
    for start in range(0, len(clip_ids), BLOCK):
        some = clip_ids[start : start + BLOCK]
        features = read(some)
        parts.append(components.transform(features, len(some)).astype(np.float32))
        masks.append(np.stack([is_present(features[name]) for name in components.fitted], axis=1))
    present = np.concatenate(masks)  # (n, M)
    rows = np.flatnonzero(present.any(axis=1))
    if len(rows) < 3:
        return Neighbours(len(rows))
    points = np.concatenate(parts)[rows]
    distances, neighbours = nearest_neighbours(points, min(_NEIGHBOURS, len(rows) - 1))
    pairs = _screen(points, neighbours, present[rows], components)
    ids = [clip_ids[row] for row in rows.tolist()]
    return Neighbours(
        len(rows),
        tuple(_compare([(ids[a], ids[b]) for a, b in pairs.tolist()], read, components)),
        tuple((ids[row], distance) for row, distance in find_outliers(distances.mean(axis=1))),
    )


def nearest_neighbours(points: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], Ints]:
    """Find the nearest neighbours of each point: exactly, or above `_EXACT` points among the points of near cells.

    Args:
        points: One row for each clip, (n, D).
        count: Number of neighbours, k, fewer than n.

    Returns:
        Distances and rows, (n, k) each, the nearest first.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import pairwise_distances_argmin
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    if len(points) <= _EXACT:
        found = NearestNeighbors(n_neighbors=count).fit(points).kneighbors()
        return np.asarray(found[0], np.float32), np.asarray(found[1], np.int64)
    sample = np.random.default_rng(_SEED).permutation(len(points))[:SAMPLE]
    cells = min(len(points) // _CELL, _MOST_CELLS)
    with threadpool_limits(1):  # sums in the order of the threads would differ by rounding
        centres = MiniBatchKMeans(cells, random_state=_SEED, n_init=1).fit(points[sample]).cluster_centers_
    cell_of = pairwise_distances_argmin(points, centres.astype(np.float32))
    order = np.argsort(cell_of, kind="stable")
    starts = np.searchsorted(cell_of[order], np.arange(cells + 1))
    sizes = np.diff(starts)
    near = NearestNeighbors(n_neighbors=cells).fit(centres).kneighbors(centres, return_distance=False)
    distances = np.empty((len(points), count), np.float32)
    neighbours = np.empty((len(points), count), np.int64)
    for cell in np.flatnonzero(sizes).tolist():
        needed = int(np.searchsorted(np.cumsum(sizes[near[cell]]), max(_LEAST_CANDIDATES, count + 1))) + 1
        candidates = np.concatenate([order[starts[one] : starts[one + 1]] for one in near[cell][:needed]])
        members = order[starts[cell] : starts[cell + 1]]
        model = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(points[candidates])
        far, found = model.kneighbors(points[members])
        rows = candidates[found]  # (m, k + 1), with the clip itself unless more than k clips are equal to it
        is_self = rows == members[:, None]
        is_self[~is_self.any(axis=1), -1] = True
        distances[members], neighbours[members] = (values[~is_self].reshape(-1, count) for values in (far, rows))
    return distances, neighbours


def find_outliers(distances: NDArray[np.floating]) -> list[tuple[int, float]]:
    """Find rows whose mean distance to their nearest neighbours, (n,), is unusually large.

    Returns:
        Rows and their distance in units of the median distance, the farthest first.
    """
    median = float(np.median(distances))
    deviation = 1.4826 * float(np.median(np.abs(distances - median)))
    if deviation <= 0:
        return []
    rows = np.flatnonzero(distances > median + _OUTLIER_DEVIATIONS * deviation)
    order = rows[np.argsort(-distances[rows], kind="stable")]
    return [(row, float(distances[row]) / median) for row in order.tolist()]


def _screen(
    points: NDArray[np.float32], neighbours: Ints, present: Bools, components: JointComponents
) -> NDArray[np.int64]:
    """Return pairs of neighbours with similar components in each modality, (p, 2), the most similar first."""
    first = np.repeat(np.arange(len(neighbours)), neighbours.shape[1])
    pairs = np.unique(np.sort(np.stack([first, neighbours.ravel()], axis=1), axis=1), axis=0)
    pairs = pairs[(present[pairs[:, 0]] == present[pairs[:, 1]]).all(axis=1)]
    least = np.full(len(pairs), np.inf)
    edges = np.cumsum([0, *(pipeline[-1].n_components_ for pipeline, _ in components.fitted.values())]).tolist()
    for modality, (start, end) in enumerate(pairwise(edges)):
        part = points[:, start:end]
        unit = part / (np.linalg.norm(part, axis=1, keepdims=True) + 1e-9)
        for block in range(0, len(pairs), BLOCK * _NEIGHBOURS):
            some = pairs[block : block + BLOCK * _NEIGHBOURS]
            cosine = np.einsum("pd,pd->p", unit[some[:, 0]], unit[some[:, 1]])
            cosine[~present[some[:, 0], modality]] = np.inf
            np.minimum(least[block : block + len(some)], cosine, out=least[block : block + len(some)])
    order = np.argsort(-least, kind="stable")
    chosen: NDArray[np.int64] = pairs[order[least[order] >= _SCREENED_SIMILARITY][:_MOST_COMPARED]]
    return chosen


def _compare(
    pairs: Sequence[tuple[str, str]], read: Callable[[Sequence[str]], Features], components: JointComponents
) -> list[tuple[str, str, float]]:
    """Return the near-duplicates among pairs of clips with their least cosine over the modalities."""
    ids = list(dict.fromkeys(name for pair in pairs for name in pair))
    if not ids:
        return []
    place = {name: row for row, name in enumerate(ids)}
    rows = np.array([[place[name] for name in pair] for pair in pairs])
    least: Floats = np.full(len(pairs), np.inf)
    features = read(ids)
    for name, (pipeline, _) in components.fitted.items():
        standard = pipeline[0].transform(np.asarray(features[name], np.float64))
        unit = standard / (np.linalg.norm(standard, axis=1, keepdims=True) + 1e-9)
        cosine = np.einsum("pd,pd->p", unit[rows[:, 0]], unit[rows[:, 1]])
        np.fmin(least, cosine, out=least)  # NaN: both clips lack the modality
    order = np.argsort(-least, kind="stable")
    chosen = order[least[order] >= LEAST_SIMILARITY][:MOST_PAIRS]
    return [(*pairs[row], min(float(least[row]), 1.0)) for row in chosen.tolist()]
