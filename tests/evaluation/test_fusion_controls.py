"""Controls trained with the fusion model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.predictions import NO_MODALITY, PredictionTable
from ecmf_pipeline.evaluation.controls import DROPPED, GIVEN, PSEUDO, REBALANCED, TrainingSet, fusion_predictions
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.training import fit

LABELS = ("happy", "sad")
CLIPS = 60
FUSION = FusionConfig(hidden=8, heads=2)
TRAINING = TrainingConfig(folds=3, seeds=1, epochs=10, learning_rate=0.03)


@pytest.fixture(scope="module")
def corpus() -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64], NDArray[np.int64], list[Clip]]:
    rng = np.random.default_rng(0)
    truth = np.arange(CLIPS) % 2
    features = {
        name: (rng.normal(size=(CLIPS, 4)) + 2.5 * truth[:, None]).astype(np.float32) for name in ("face", "text")
    }
    features["face"][5] = features["text"][5] = np.nan
    clips = [Clip(ClipId(f"c{i:02d}"), given_label=LABELS[label]) for i, label in enumerate(truth.tolist())]
    return features, truth, np.arange(CLIPS) // 2 % 3, clips


def table(clips: list[Clip], labels: NDArray[np.int64]) -> PredictionTable:
    flags = tuple(NO_MODALITY if row == 5 else "" for row in range(len(clips)))
    return PredictionTable(
        clip_ids=tuple(clip.clip_id for clip in clips),
        splits=tuple(clip.split.value for clip in clips),
        out_of_fold=np.ones(len(clips), dtype=bool),
        flags=flags,
        label_names=LABELS,
        probs=np.eye(2, dtype=np.float32)[labels],
        modalities=("face",),
        modality_weights=np.ones((len(clips), 1), np.float32),
    )


def predict(corpus: Any, sets: dict[str, TrainingSet], training: TrainingConfig = TRAINING) -> dict[str, Any]:
    features, truth, folds, clips = corpus
    trained = {"given": table(clips, truth), "refined": table(clips, 1 - truth)}
    return fusion_predictions(features, sets, folds, clips, LABELS, fusion=FUSION, training=training, trained=trained)


def test_predictions_of_trained_sets_are_reused(corpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, truth, _, _ = corpus
    trained: list[str] = []

    def recording_fit(*args: Any, **kwargs: Any) -> Any:
        trained.append(f"{kwargs['description']}, {kwargs['training'].class_weights}")
        return fit(*args, **kwargs)

    monkeypatch.setattr("ecmf_pipeline.evaluation.controls.fit", recording_fit)
    ones = np.ones(CLIPS)
    sets = {
        GIVEN: TrainingSet(truth, ones, 0.0),
        REBALANCED: TrainingSet(truth, ones, 0.5),
        PSEUDO: TrainingSet(truth, ones, 0.5),
    }
    predictions = predict(corpus, sets)
    assert trained == [f"control: {GIVEN}, none"]
    expected = np.where(np.arange(CLIPS) == 5, -1, truth)
    assert_array_equal(predictions[REBALANCED], expected)
    assert_array_equal(predictions[PSEUDO], np.where(np.arange(CLIPS) == 5, -1, 1 - truth))
    assert predictions[GIVEN][5] == -1
    assert (predictions[GIVEN] == truth).mean() > 0.85
    trained.clear()
    without_class_weights = TRAINING.model_copy(update={"class_weights": "none"})
    predictions = predict(corpus, sets, without_class_weights)
    assert trained == [f"control: {REBALANCED}, sqrt", f"control: {PSEUDO}, sqrt"]
    assert_array_equal(predictions[GIVEN], expected)


def test_no_clip_is_predicted_by_a_model_trained_on_its_fold(corpus: Any) -> None:
    _, truth, folds, _ = corpus
    flipped = np.where(folds == 1, 1 - truth, truth)
    before, after = (
        predict(corpus, {DROPPED: TrainingSet(labels, np.ones(CLIPS), 0.5)})[DROPPED] for labels in (truth, flipped)
    )
    assert_array_equal(before[folds == 1], after[folds == 1])
    assert (before != after).any()
