"""Find given labels that are probably wrong, and place clips on a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.labels.selection import is_present, joint_components

SEED = 0
_LEAST_CLIPS = 3
_LEAST_PROBABILITY = 1e-4
"""Smaller probabilities count as this one: their logarithms would dominate all distances."""
_LEAST_CLIPS_OF_TSNE = 30
_ROUNDING = 1e-6
"""An axis whose span is a smaller share of that of the other axis shows rounding errors."""


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
    """Positions of n clips on the map.

    Attributes:
        clip_ids: The clips, (n,).
        points: Their positions, (n, 2), each from 0 to 1.
        method: Description of the method and of what it projects.
    """

    clip_ids: tuple[str, ...]
    points: NDArray[np.float64]
    method: str


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


def map_decisions(table: PredictionTable, rows: Sequence[int]) -> ClipMap | None:
    """Place clips on a map by the fusion's decision: what each modality contributes to it, and its result.

    The contribution of a modality is its weight times the log-probabilities of its branch, as the fusion adds them; it
    is 0 if the clip lacks the modality. They are comparable between clips of different folds, whose models have hidden
    layers with different bases.

    Args:
        table: Predictions of a fusion, with the probabilities of its branches if it has any.
        rows: Rows of the clips; those without a prediction are left out.

    Returns:
        None if fewer than three clips have a prediction.
    """
    kept = np.asarray([row for row in rows if not table.flags[row]], np.int64)
    parts = [_centred_logs(table.probs[kept])]
    if table.branch_probs is not None:
        columns = [table.modalities.index(name) for name in table.branches]
        weights = table.modality_weights[kept][:, columns]  # (n, B)
        contributions = weights[:, :, None] * _centred_logs(table.branch_probs[kept])
        parts += [np.nan_to_num(contributions).reshape(len(kept), -1)]
    what = "the log-probabilities of the fusion"
    if len(parts) > 1:
        what = f"what each modality contributes to the fusion ({', '.join(table.branches)}), and of its result"
    return _map(
        np.concatenate(parts, axis=1),
        [table.clip_ids[row] for row in kept.tolist()],
        f"{what}, by models that were not trained on the clip",
    )


def _centred_logs(probs: NDArray[np.floating]) -> Floats:
    """Return log-probabilities minus their mean over the labels, (..., C)."""
    with np.errstate(invalid="ignore"):
        logs = np.log(np.maximum(np.asarray(probs, np.float64), _LEAST_PROBABILITY))
    centred: Floats = logs - logs.mean(axis=-1, keepdims=True)
    return centred


def map_features(
    features: Mapping[str, NDArray[np.floating]], probs: NDArray[np.floating], clip_ids: Sequence[str]
) -> ClipMap | None:
    """Place clips on a map by their features and probabilities, if no fusion was trained.

    Args:
        features: Features by modality, (n, D) each; a row of NaN if a clip has none.
        probs: Predicted probabilities, (n, C).
        clip_ids: The clips, (n,).

    Returns:
        None if fewer than three clips have features.
    """
    has_features = np.logical_or.reduce([is_present(values) for values in features.values()])
    rows = np.flatnonzero(has_features)
    if len(rows) < _LEAST_CLIPS:
        return None
    inputs = {name: values[rows] for name, values in features.items()}
    components = joint_components({**inputs, "": _centred_logs(probs[rows])}, len(rows))
    what = f"the features of all modalities ({', '.join(features)}), and of the predicted probabilities"
    return _map(components, [clip_ids[row] for row in rows.tolist()], what)


def _map(values: Floats, clip_ids: Sequence[str], what: str) -> ClipMap | None:
    """Place clips by values (n, D); ``what`` describes them."""
    if len(values) < _LEAST_CLIPS or not values.shape[1]:
        return None
    points, method = _project(values)
    span = np.ptp(points, axis=0)
    points = (points - points.min(axis=0)) / np.where(span > _ROUNDING * span.max(), span, 1.0)
    return ClipMap(tuple(clip_ids), points, f"{method} of {what}")


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
