"""A set of features as large as MER2025's first track: 7,369 labelled clips and 20,000 candidates.

Features are class-conditional: in every modality a clip is a draw around the mean of a class. 11% of the clips are
pulled to a wrong class, in all modalities alike, so that no model can get them right: the best weighted F1 is about
0.89.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_CLASSES = 6
CLASS_SHARES = (0.24, 0.20, 0.19, 0.16, 0.13, 0.08)
PULLED = 0.11
WIDTHS = {"face": 1024, "audio": 1024, "text": 768}
STRENGTHS = {"face": 0.090, "audio": 0.1125, "text": 0.105}
"""Standard deviation of the class means in each column, where that of the clips around them is 1."""

LABELLED, CANDIDATES = 7_369, 20_000


@dataclass(frozen=True)
class GeneratedSet:
    """Labelled clips and candidates.

    Attributes:
        features: For each modality, (n, D), float32.
        labels: Class indices, (n,).
        candidates: For each modality, (k, D), float32.
        candidate_labels: Class indices, (k,).
    """

    features: dict[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    candidates: dict[str, NDArray[np.float32]]
    candidate_labels: NDArray[np.int64]


def generate(
    labelled: int = LABELLED, candidates: int = CANDIDATES, *, pulled: float = PULLED, seed: int = 7
) -> GeneratedSet:
    """Draw the set.

    Args:
        labelled: Clips with a label.
        candidates: Clips to predict.
        pulled: Share of the clips whose features are those of another class.
        seed: Where all randomness starts.
    """
    rng = np.random.default_rng(seed)
    count = labelled + candidates
    labels = rng.choice(N_CLASSES, size=count, p=CLASS_SHARES)
    shown = np.where(rng.random(count) < pulled, (labels + rng.integers(1, N_CLASSES, count)) % N_CLASSES, labels)
    features = {}
    for name, width in WIDTHS.items():
        means = rng.standard_normal((N_CLASSES, width), dtype=np.float32) * np.float32(STRENGTHS[name])
        values = rng.standard_normal((count, width), dtype=np.float32)
        values += means[shown]
        features[name] = values
    return GeneratedSet(
        {name: values[:labelled] for name, values in features.items()},
        labels[:labelled],
        {name: values[labelled:] for name, values in features.items()},
        labels[labelled:],
    )


def with_holes(
    features: Mapping[str, NDArray[np.float32]], shares: Mapping[str, float], *, seed: int
) -> dict[str, NDArray[np.float32]]:
    """Features of which a share of the clips lacks each modality named: rows of NaN; the others stay as they are."""
    rng = np.random.default_rng(seed)
    return {
        name: np.where(rng.random(len(values))[:, None] < shares.get(name, 0.0), np.float32(np.nan), values)
        for name, values in features.items()
    }
