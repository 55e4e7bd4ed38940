from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.scoring import Judge
from ecmf_pipeline.evaluation.transfer import judge_transfer, label_map, transfer_summary
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.training import fit

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


def reading(values: dict[str, np.ndarray]):
    """Clip ids end in their row."""
    return lambda some: {name: rows[[int(clip_id[1:]) for clip_id in some]] for name, rows in values.items()}


def judged(
    ensemble: Ensemble,
    values: dict[str, np.ndarray],
    judge: Judge,
    here: dict[str, str],
    mapped: dict[str, str],
) -> dict[str, Any]:
    read = reading(values)
    return judge_transfer(ensemble, judge, mapped, here={"fusion": here}, modalities=list(values), read=read)


def test_a_model_from_elsewhere_answers_in_the_labels_of_here(ensemble: Ensemble) -> None:
    labels = np.arange(40) % 2
    judge = judging(labels)
    here = {clip.clip_id: "happy" for clip in judge.clips}
    mapped = label_map(THEIRS, OURS, ["joy=happy", "anger=angry"])
    found = judged(ensemble, features(labels, 1), judge, here, mapped)
    assert found["there"]["weighted_f1"] > 0.9
    assert found["here"]["accuracy"] == 0.5
    assert found["loss"]["low"] > 0
    assert found["unanswered"] == 0
    assert "here_alone" not in found
    alone = judged(ensemble, {"text": features(labels, 1)["text"]}, judge, here, mapped)
    assert alone["modalities"] == ["text"]
    assert alone["there"]["accuracy"] > 0.7


def test_clips_without_a_known_modality_count_as_wrong(ensemble: Ensemble) -> None:
    labels = np.arange(40) % 2
    judge, values = judging(labels), features(labels, 1)
    for name in values:
        values[name][:10] = np.nan
    here = {clip.clip_id: "sad" for clip in judge.clips}
    found = judged(ensemble, values, judge, here, {"joy": "happy", "anger": "angry"})
    assert found["unanswered"] == 10
    assert found["there"]["accuracy"] <= 0.75
    assert "10 clips lack every modality that it knows: they count as wrong" in transfer_summary("model", found)


def test_one_shared_modality_is_compared_with_that_modality_alone(ensemble: Ensemble) -> None:
    labels = np.arange(40) % 2
    judge = judging(labels)
    good = {clip.clip_id: clip.gold_label for clip in judge.clips}
    poor = {clip.clip_id: OURS[1 - OURS.index(clip.gold_label)] for clip in judge.clips}
    values = features(labels, 1)
    found = judge_transfer(
        ensemble,
        judge,
        {"joy": "happy", "anger": "angry"},
        here={"fusion": good, "text": poor},
        modalities=["text", "audio"],
        read=reading({"text": values["text"], "audio": values["face"]}),
    )
    assert found["modalities"] == ["text"]
    assert found["here_alone"]["accuracy"] == 0
    assert found["loss_alone"]["low"] > 0 >= found["loss"]["difference"]
    assert "less the one of here by text alone (0.0000)" in transfer_summary("model", found)


@pytest.mark.parametrize("learned", [60, 0])
def test_clips_that_it_knows_are_judged_by_members_that_held_them_or_their_group_out(learned: int) -> None:
    """Labels that are noise: members that saw a clip, or another take of it, know its label by heart."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 60)
    clips = [Clip(ClipId(f"c{n:02d}"), gold_label=OURS[label]) for n, label in enumerate(labels)]
    values = {"text": rng.normal(size=(60, 80)).astype(np.float32)}
    training = TrainingConfig(folds=3, seeds=1, epochs=40, patience=40, learning_rate=1e-2, calibration="none")
    trained = fit(
        values,
        labels,
        clip_ids=[clip.clip_id for clip in clips],
        label_names=OURS,
        fusion=FusionConfig(kind="concat", hidden=16),
        training=training,
    )
    trained = replace(trained, trained=frozenset(sorted(trained.trained)[:learned]))
    judge = Judge(clips, OURS, EvaluateConfig(draws=100))
    found = judged(trained, values, judge, {clip.clip_id: "happy" for clip in clips}, {name: name for name in OURS})
    by_all = OURS[1] == np.array(OURS)[trained.predict(values).classes]
    assert (found["trained_on"], found["held_out"]) == (learned, 60)
    assert f"60 clips have names that it knows, {learned} of them trained on" in transfer_summary("model", found)
    assert found["there"]["accuracy"] < 0.7 < (by_all == (labels == 1)).mean()


def test_labels_that_mean_nothing_here_are_refused(ensemble: Ensemble) -> None:
    assert label_map(("sad", "joy"), ("sad", "happy"), ["joy=happy"]) == {"sad": "sad", "joy": "happy"}
    for changes in (["joy=bored"], ["bored=happy"], ["joy"]):
        with pytest.raises(InputError, match="unknown"):
            label_map(THEIRS, OURS, changes)
    with pytest.raises(InputError, match="no label of the model"):
        label_map(THEIRS, OURS, [])
    with pytest.raises(InputError, match="the model knows face, text"):
        judged(ensemble, {"audio": np.zeros((4, 3))}, judging(np.arange(4) % 2), {}, {"joy": "happy"})
