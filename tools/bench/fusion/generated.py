"""Generate features of the size of MER2025's first track: 7,369 labelled clips and 20,000 candidates.

In each modality, the features of a clip are drawn from a normal distribution around the mean of its class. For 11% of
the clips it is the mean of a wrong class, the same in all modalities, so no model can predict them: the best possible
weighted F1 is about 0.89.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_CLASSES = 6
CLASS_SHARES = (0.24, 0.20, 0.19, 0.16, 0.13, 0.08)
WRONG_CLASS_SHARE = 0.11
WIDTHS = {"face": 1024, "audio": 1024, "text": 768}
STRENGTHS = {"face": 0.090, "audio": 0.1125, "text": 0.105}
"""Standard deviation of the class means in each column; that of the clips around the means is 1."""

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
    labelled: int = LABELLED,
    candidates: int = CANDIDATES,
    *,
    wrong_class_share: float = WRONG_CLASS_SHARE,
    seed: int = 7,
) -> GeneratedSet:
    """Generate the set.

    Args:
        labelled: Number of labelled clips.
        candidates: Number of clips to predict.
        wrong_class_share: Share of clips with the features of another class.
        seed: Seed of the random generator.
    """
    rng = np.random.default_rng(seed)
    count = labelled + candidates
    labels = rng.choice(N_CLASSES, size=count, p=CLASS_SHARES)
    drawn_classes = np.where(
        rng.random(count) < wrong_class_share, (labels + rng.integers(1, N_CLASSES, count)) % N_CLASSES, labels
    )
    features = {}
    for name, width in WIDTHS.items():
        means = rng.standard_normal((N_CLASSES, width), dtype=np.float32) * np.float32(STRENGTHS[name])
        values = rng.standard_normal((count, width), dtype=np.float32)
        values += means[drawn_classes]
        features[name] = values
    return GeneratedSet(
        {name: values[:labelled] for name, values in features.items()},
        labels[:labelled],
        {name: values[labelled:] for name, values in features.items()},
        labels[labelled:],
    )


def with_missing(
    features: Mapping[str, NDArray[np.float32]], shares: Mapping[str, float], *, seed: int
) -> dict[str, NDArray[np.float32]]:
    """Replace a random share of the rows of each named modality by NaN."""
    rng = np.random.default_rng(seed)
    return {
        name: np.where(rng.random(len(values))[:, None] < shares.get(name, 0.0), np.float32(np.nan), values)
        for name, values in features.items()
    }
