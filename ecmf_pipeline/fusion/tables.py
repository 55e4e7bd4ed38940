"""Predictions of a whole corpus: by several ensembles, block by block of clips, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, labels_of
from ecmf_pipeline.core.console import progress
from ecmf_pipeline.core.predictions import PredictionTable, with_prior
from ecmf_pipeline.fusion.prediction import CHUNK, EVERYONE, Ensemble, Prediction

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
) -> dict[str, Prediction]:
    """Let several ensembles judge the same clips, whose features are read once.

    Args:
        judgements: By name.
        clip_ids: The clips, (n,).
        read: From clip ids to their features; each ensemble takes those of its own modalities.

    Raises:
        KeyError: When ``read`` lacks a modality of an ensemble.
    """
    found: dict[str, list[Prediction]] = {name: [] for name in judgements}
    for start in progress(range(0, max(len(clip_ids), 1), BLOCK), "predict", unit="block"):
        rows = slice(start, start + BLOCK)
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


def out_of_fold(ensemble: Ensemble, clips: Sequence[Clip]) -> Judgement:
    """Each clip by the members that held it, or its group, out."""
    return Judgement(ensemble, ensemble.held_out(clip.clip_id for clip in clips))


def deployed(ensemble: Ensemble, clips: Sequence[Clip]) -> Judgement:
    """Each clip by the whole ensemble, but those that were trained on by the members that held them out."""
    clip_ids = [clip.clip_id for clip in clips]
    return Judgement(ensemble, np.where(ensemble.trained_on(clip_ids), ensemble.held_out(clip_ids), EVERYONE))


def predict_tables(
    judgements: Mapping[str, Judgement], clips: Sequence[Clip], read: Callable[[Sequence[str]], Features]
) -> dict[str, PredictionTable]:
    """What `predict_in_blocks` finds, as tables; clips that cannot be judged get the given labels' shares."""
    tables = {}
    for name, prediction in predict_in_blocks(judgements, [clip.clip_id for clip in clips], read).items():
        given = np.array(labels_of(clips, prediction.label_names))
        prior = np.bincount(given[given >= 0], minlength=len(prediction.label_names)) / (given >= 0).sum()
        probs, flags = with_prior(prediction.probs, prior.tolist())
        tables[name] = PredictionTable(
            clip_ids=tuple(clip.clip_id for clip in clips),
            splits=tuple(clip.split.value for clip in clips),
            out_of_fold=judgements[name].held_out >= 0,
            flags=flags,
            label_names=prediction.label_names,
            probs=probs,
            modalities=judgements[name].ensemble.modalities,
            modality_weights=prediction.modality_weights,
        )
    return tables
