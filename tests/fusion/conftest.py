"""A small corpus whose modalities differ in how much they predict, and models trained on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.training import fit


@dataclass(frozen=True)
class Corpus:
    features: dict[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    groups: list[str]
    clip_ids: list[str]


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """48 clips of three classes and six speakers; the face predicts well, the audio weakly; one audio row is NaN."""
    rng = np.random.default_rng(3)
    labels = np.arange(48) % 3
    face = rng.normal(size=(3, 10))[labels] * 1.5 + rng.normal(size=(48, 10))
    audio = (rng.normal(size=(3, 7))[labels] * 0.7 + rng.normal(size=(48, 7))) * 10.0 ** np.arange(7)
    audio[5] = np.nan
    return Corpus(
        {"face": face.astype(np.float32), "audio": audio.astype(np.float32)},
        labels,
        [f"speaker{i // 8}" for i in range(48)],
        [f"clip{i:02d}" for i in range(48)],
    )


@pytest.fixture(scope="session")
def small() -> FusionConfig:
    return FusionConfig(hidden=16, heads=2)


@pytest.fixture(scope="session")
def quick() -> TrainingConfig:
    return TrainingConfig(folds=3, seeds=2, epochs=6, patience=3, learning_rate=5e-3, joint_learning_rate=1e-3)


@pytest.fixture(scope="session")
def ensemble(corpus: Corpus, small: FusionConfig, quick: TrainingConfig) -> Ensemble:
    return fit(
        corpus.features,
        corpus.labels,
        groups=corpus.groups,
        clip_ids=corpus.clip_ids,
        label_names=("neutral", "happy", "sad"),
        fusion=small,
        training=quick,
    )
