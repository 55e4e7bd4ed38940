"""Find clips to check: probable label errors, near-duplicates and outliers; and place clips on a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.selection import joint_components

SEED = 0
LEAST_SIMILARITY = 0.95
"""Least cosine of standardised features, in each modality of both clips, of near-duplicates."""
MOST_PAIRS = 200
_NEIGHBOURS = 10
_OUTLIER_DEVIATIONS = 4.0
"""Outliers are farther from their neighbours than the median by this many robust standard deviations."""
_LEAST_CLIPS_OF_TSNE = 30


@dataclass(frozen=True, slots=True)
class LabelIssue:
    """A given label that is probably wrong.

    Attributes:
        clip_id: The clip.
        given: Its given label.
        likely: The label that the model predicts without having been trained on the clip.
        given_probability: Probability of the given label.
        likely_probability: Probability of the likely label.
    """

    clip_id: str
    given: str
    likely: str
    given_probability: float
    likely_probability: float


@dataclass(frozen=True)
class ClipMap:
    """Positions of n clips on the map, and what their features show.

    Attributes:
        clip_ids: The clips, (n,).
        points: Their positions, (n, 2), each from 0 to 1.
        method: Description of the method.
        duplicates: Pairs of near-duplicates and their similarity, the most similar first.
        outliers: Clips far from all others and their distance in units of the median, the farthest first.
    """

    clip_ids: tuple[str, ...]
    points: NDArray[np.float64]
    method: str
    duplicates: tuple[tuple[str, str, float], ...] = ()
    outliers: tuple[tuple[str, float], ...] = ()


def find_label_issues(probs: Floats, given: Ints) -> list[int]:
    """Find labels that are probably wrong by confident learning (Northcutt et al. 2021, arXiv 1911.00068).

    Args:
        probs: Probabilities of models that were not trained on the clip, (n, C); a row of NaN excludes the clip.
        given: Given labels, (n,); -1 if there is none.

    Returns:
        Rows with a probable error, the least probable given label first.
    """
    used = np.flatnonzero((given >= 0) & ~np.isnan(probs).any(axis=1))
    if not len(used):
        return []
    probs, given = probs[used], given[used]
    own = probs[np.arange(len(given)), given]  # (n,)
    thresholds = np.full(probs.shape[1], np.inf)
    for label in np.unique(given):
        thresholds[label] = own[given == label].mean()
    above = probs >= thresholds - 1e-6
    likely = np.where(above.sum(axis=1) > 1, probs.argmax(axis=1), above.argmax(axis=1))
    rows = np.flatnonzero(above.any(axis=1) & (likely != given))
    found: list[int] = used[rows[np.argsort(own[rows], kind="stable")]].tolist()
    return found


def map_clips(
    features: Mapping[str, NDArray[np.floating]], probs: NDArray[np.floating], clip_ids: Sequence[str]
) -> ClipMap | None:
    """Place clips on a map, and find near-duplicates and outliers among them.

    Args:
        features: Features by modality, (n, D) each; a row of NaN if a clip has none.
        probs: Predicted probabilities, (n, C); a row of NaN if a clip has no prediction.
        clip_ids: The clips, (n,).

    Returns:
        None if fewer than three clips have features.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(np.asarray(probs, np.float64), 1e-4))
    has_features = np.zeros(len(clip_ids), bool)
    for values in features.values():
        has_features |= np.isfinite(np.asarray(values, np.float64).sum(axis=1))
    rows = np.flatnonzero(has_features)
    if len(rows) < 3:
        return None
    inputs = {name: np.asarray(values[rows], np.float64) for name, values in features.items()}
    components = joint_components({**inputs, "": logs[rows]}, len(rows))
    if not components.shape[1]:
        return None
    points, method = _project(components)
    span = np.ptp(points, axis=0)
    ids = [clip_ids[row] for row in rows.tolist()]
    return ClipMap(
        tuple(ids),
        (points - points.min(axis=0)) / np.where(span > 0, span, 1.0),
        f"{method} of the features of all modalities ({', '.join(features)}) and of the predicted probabilities",
        tuple((ids[a], ids[b], similarity) for a, b, similarity in find_duplicates(inputs)),
        tuple((ids[row], distance) for row, distance in find_outliers(components)),
    )


def find_duplicates(features: Mapping[str, NDArray[np.floating]]) -> list[tuple[int, int, float]]:
    """Find pairs of rows that are similar in each modality that they have; both must have the same modalities.

    Args:
        features: Features by modality, (n, D) each; a row of NaN if a clip has none.

    Returns:
        Rows and least cosine of their standardised features, at most `MOST_PAIRS` pairs, the most similar first.
    """
    clips = len(next(iter(features.values())))
    least = np.full((clips, clips), np.inf, np.float32)
    for values in features.values():
        present = np.isfinite(values.sum(axis=1))
        if present.sum() < 2:
            continue
        rows = np.asarray(values[present], np.float32)
        rows = (rows - rows.mean(axis=0)) / (rows.std(axis=0) + 1e-6)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9
        cosine = np.full((clips, clips), np.inf, np.float32)
        cosine[np.ix_(present, present)] = rows @ rows.T
        cosine[present[:, None] != present[None, :]] = -1.0
        np.minimum(least, cosine, out=least)
    least[~np.isfinite(least)] = -1.0
    first, second = np.nonzero(np.triu(least >= LEAST_SIMILARITY, k=1))
    similarity = least[first, second]
    order = np.argsort(-similarity, kind="stable")[:MOST_PAIRS]
    return [(int(first[i]), int(second[i]), min(float(similarity[i]), 1.0)) for i in order]


def find_outliers(components: Floats) -> list[tuple[int, float]]:
    """Find rows whose mean distance to their nearest neighbours is unusually large.

    Args:
        components: One row for each clip, (n, D).

    Returns:
        Rows and their distance in units of the median distance, the farthest first.
    """
    from sklearn.neighbors import NearestNeighbors

    neighbours = min(_NEIGHBOURS, len(components) - 1)
    distances, _ = NearestNeighbors(n_neighbors=neighbours).fit(components).kneighbors()
    mean = distances.mean(axis=1)
    median = float(np.median(mean))
    deviation = 1.4826 * float(np.median(np.abs(mean - median)))
    rows = np.flatnonzero(mean > median + _OUTLIER_DEVIATIONS * deviation) if deviation > 0 else np.empty(0, np.int64)
    order = rows[np.argsort(-mean[rows], kind="stable")]
    return [(row, float(mean[row]) / median if median else 0.0) for row in order.tolist()]


def _project(components: Floats) -> tuple[Floats, str]:
    """Project to two dimensions with one thread, so that equal inputs give equal points."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        if len(components) < _LEAST_CLIPS_OF_TSNE or components.shape[1] < 2:
            wanted = min(2, *components.shape)
            points = PCA(wanted, random_state=SEED).fit_transform(components)
            return np.pad(points, ((0, 0), (0, 2 - wanted))), "Principal components"
        perplexity = min(30.0, (len(components) - 1) / 3)
        model = TSNE(2, perplexity=perplexity, init="pca", random_state=SEED, n_jobs=1)
        return np.asarray(model.fit_transform(components.astype(np.float32)), np.float64), "t-SNE"
