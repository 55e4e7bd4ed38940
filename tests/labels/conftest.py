"""Simulated votes with known truth, and the clips that belong to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, ClipId, Split

LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
SKILLS = {"face": 3.0, "text": 2.6, "audio": 2.0, "global": 1.2}


@dataclass(frozen=True)
class Simulation:
    votes: dict[str, NDArray[np.float64]]
    given: NDArray[np.int64]
    truth: NDArray[np.int64]
    families: dict[str, str]
    clips: list[Clip]


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _simulate(seed: int, labelled: int, *, noise: float = 0.15, unlabeled: int = 0) -> Simulation:
    """Simulate votes: two voters per modality share its errors, fusion shares all errors, some clips mislead all
    sources."""
    rng = np.random.default_rng(seed)
    clips, classes = labelled + unlabeled, len(LABELS)
    truth = rng.choice(classes, clips, p=rng.dirichlet(np.full(classes, 8.0)))
    truth[:classes] = np.arange(classes)
    right, misleading = np.eye(classes)[truth], 0.6 * rng.normal(size=(clips, classes))
    votes, scores = {}, []
    for modality, skill in SKILLS.items():
        score = skill * right + misleading + rng.normal(size=(clips, classes))
        scores.append(score)
        for voter, sharpness, blur in (("linear", 2.0, 0.5), ("lightgbm", 1.2, 0.9)):
            votes[f"{modality}_{voter}"] = softmax(sharpness * (score + blur * rng.normal(size=score.shape)))
    votes["fusion"] = softmax(3.0 * (np.mean(scores, axis=0) + 0.25 * rng.normal(size=right.shape)))
    votes["llm"] = softmax(1.8 * right + misleading + 1.3 * rng.normal(size=right.shape))
    votes["llm"][rng.random(clips) < 0.3] = np.nan
    flipped = rng.random(clips) < noise
    given = np.where(flipped, (truth + rng.integers(1, classes, clips)) % classes, truth)
    given[labelled:] = -1
    return Simulation(
        votes,
        given,
        truth,
        {name: name.split("_")[0] for name in votes},
        make_labelled_clips([LABELS[g] if g >= 0 else "" for g in given]),
    )


def make_labelled_clips(given_labels: list[str]) -> list[Clip]:
    return [
        Clip(ClipId(f"clip{i:05d}"), given_label=label, split=Split.TRAIN if label else Split.UNLABELED)
        for i, label in enumerate(given_labels)
    ]


@pytest.fixture(scope="session")
def simulate() -> Callable[..., Simulation]:
    return _simulate


@pytest.fixture(scope="session")
def make_clips() -> Callable[[list[str]], list[Clip]]:
    return make_labelled_clips


@pytest.fixture(scope="session")
def labels() -> tuple[str, ...]:
    return LABELS
