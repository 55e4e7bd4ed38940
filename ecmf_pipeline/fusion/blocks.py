"""Predictions of many clips whose features are read block by block, so that they need not all be in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.fusion.prediction import CHUNK, Ensemble, Prediction
from ecmf_pipeline.progress import progress

BLOCK = 4 * CHUNK
"""Clips whose features are read together: of 16 frames and 1,280 columns they take 170 MB. A multiple of `CHUNK`, so
that chunks, and with them the last bits of predictions, are those of one read."""

Features = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Judgement:
    """Who judges, and which of its members.

    Attributes:
        ensemble: The models.
        held_out: The fold that held each clip out, (n,), -1 for the whole ensemble; see `Ensemble.predict`.
    """

    ensemble: Ensemble
    held_out: NDArray[np.int64]


def predict_in_blocks(
    judgements: Mapping[str, Judgement],
    clip_ids: Sequence[str],
    read: Callable[[Sequence[str]], Features],
    *,
    block: int = BLOCK,
) -> dict[str, Prediction]:
    """Let several ensembles judge the same clips, whose features are read once.

    Args:
        judgements: By name.
        clip_ids: The clips, (n,).
        read: From clip ids to their features; each ensemble takes those of its own modalities.
        block: Clips that are read together.

    Raises:
        KeyError: When ``read`` lacks a modality of an ensemble.
    """
    found: dict[str, list[Prediction]] = {name: [] for name in judgements}
    for start in progress(range(0, max(len(clip_ids), 1), block), "predict", unit="block"):
        rows = slice(start, start + block)
        features = read(clip_ids[rows])
        for name, judgement in judgements.items():
            own = {modality: features[modality] for modality in judgement.ensemble.modalities}
            found[name].append(judgement.ensemble.predict(own, judgement.held_out[rows]))
    return {
        name: Prediction(
            np.concatenate([part.probs for part in parts]),
            np.concatenate([part.modality_weights for part in parts]),
            parts[0].label_names,
            parts[0].label_type,
        )
        for name, parts in found.items()
    }
