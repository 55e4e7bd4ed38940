from __future__ import annotations

import numpy as np
import pytest

from ecmf_pipeline.clips import Clip, ClipId
from ecmf_pipeline.errors import InputError
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.scoring import Judge
from ecmf_pipeline.evaluation.transfer import judge_transfer, label_map
from ecmf_pipeline.fusion import Ensemble, FusionConfig, TrainingConfig, fit

THEIRS, OURS = ("joy", "anger", "disgust"), ("happy", "angry")


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    labels = np.arange(60) % 3
    training = TrainingConfig(folds=2, seeds=1, epochs=20, learning_rate=1e-2)
    return fit(features(labels, 0), labels, label_names=THEIRS, fusion=FusionConfig(hidden=16), training=training)


def features(labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: (3 * np.eye(3, 6)[labels] + rng.normal(size=(len(labels), 6))).astype(np.float32)
        for name in ("face", "text")
    }


def judging(labels: np.ndarray) -> Judge:
    clips = [Clip(ClipId(f"c{n:02d}"), gold_label=OURS[label]) for n, label in enumerate(labels)]
    return Judge(clips, OURS, EvaluateConfig(draws=100))


def test_a_model_from_elsewhere_answers_in_the_labels_of_here(ensemble: Ensemble) -> None:
    labels = np.arange(40) % 2
    judge = judging(labels)
    here = {clip.clip_id: "happy" for clip in judge.clips}
    mapped = label_map(THEIRS, OURS, ["joy=happy", "anger=angry"])
    found = judge_transfer(ensemble, features(labels, 1), judge, here, mapped)
    assert found["there"]["weighted_f1"] > 0.9
    assert found["here"]["accuracy"] == 0.5
    assert found["loss"]["low"] > 0
    assert found["unanswered"] == 0
    alone = judge_transfer(ensemble, {"text": features(labels, 1)["text"]}, judge, here, mapped)
    assert alone["modalities"] == ["text"]
    assert alone["there"]["accuracy"] > 0.7


def test_clips_without_a_known_modality_count_as_wrong(ensemble: Ensemble) -> None:
    labels = np.arange(40) % 2
    judge, values = judging(labels), features(labels, 1)
    for name in values:
        values[name][:10] = np.nan
    found = judge_transfer(
        ensemble, values, judge, {clip.clip_id: "sad" for clip in judge.clips}, {"joy": "happy", "anger": "angry"}
    )
    assert found["unanswered"] == 10
    assert found["there"]["accuracy"] <= 0.75


def test_labels_that_mean_nothing_here_are_refused(ensemble: Ensemble) -> None:
    assert label_map(("sad", "joy"), ("sad", "happy"), ["joy=happy"]) == {"sad": "sad", "joy": "happy"}
    for changes in (["joy=bored"], ["bored=happy"], ["joy"]):
        with pytest.raises(InputError, match="unknown"):
            label_map(THEIRS, OURS, changes)
    with pytest.raises(InputError, match="no label of the model"):
        label_map(THEIRS, OURS, [])
    with pytest.raises(InputError, match="the model knows face, text"):
        judge_transfer(ensemble, {"audio": np.zeros((4, 3))}, judging(np.arange(4) % 2), {}, {"joy": "happy"})
