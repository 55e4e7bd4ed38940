from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.scoring import Evaluator
from ecmf_pipeline.evaluation.transfer import evaluate_transfer, label_map, transfer_summary
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


def make_evaluator(labels: np.ndarray) -> Evaluator:
    clips = [Clip(ClipId(f"c{n:02d}"), gold_label=OURS[label]) for n, label in enumerate(labels)]
    return Evaluator(clips, OURS, EvaluateConfig(draws=100))


def read_from(values: dict[str, np.ndarray]):
    """Return a reader; the digits of a clip id are its row."""
    return lambda clip_ids: {name: rows[[int(clip_id[1:]) for clip_id in clip_ids]] for name, rows in values.items()}


def transfer(
    ensemble: Ensemble,
    values: dict[str, np.ndarray],
    evaluator: Evaluator,
    local_labels: dict[str, str],
    mapped: dict[str, str],
) -> dict[str, Any]:
    read = read_from(values)
    return evaluate_transfer(
        ensemble, evaluator, mapped, local_predictions={"fusion": local_labels}, modalities=list(values), read=read
    )


def test_labels_of_an_external_model_are_mapped(ensemble: Ensemble) -> None:
    labels = np.arange(40) % 2
    evaluator = make_evaluator(labels)
    local_labels = {clip.clip_id: "happy" for clip in evaluator.clips}
    mapped = label_map(THEIRS, OURS, ["joy=happy", "anger=angry"])
    results = transfer(ensemble, features(labels, 1), evaluator, local_labels, mapped)
    assert results["there"]["weighted_f1"] > 0.9
    assert results["here"]["accuracy"] == 0.5
    assert results["loss"]["low"] > 0
    assert results["unanswered"] == 0
    assert "here_alone" not in results
    single = transfer(ensemble, {"text": features(labels, 1)["text"]}, evaluator, local_labels, mapped)
    assert single["modalities"] == ["text"]
    assert single["there"]["accuracy"] > 0.7


def test_clips_without_a_shared_modality_count_as_wrong(ensemble: Ensemble) -> None:
    labels = np.arange(40) % 2
    evaluator, values = make_evaluator(labels), features(labels, 1)
    for name in values:
        values[name][:10] = np.nan
    local_labels = {clip.clip_id: "sad" for clip in evaluator.clips}
    results = transfer(ensemble, values, evaluator, local_labels, {"joy": "happy", "anger": "angry"})
    assert results["unanswered"] == 10
    assert results["there"]["accuracy"] <= 0.75
    assert "10 clips" in transfer_summary("model", results)


def test_a_single_shared_modality_is_compared_with_its_local_model(ensemble: Ensemble) -> None:
    labels = np.arange(40) % 2
    evaluator = make_evaluator(labels)
    good = {clip.clip_id: clip.gold_label for clip in evaluator.clips}
    poor = {clip.clip_id: OURS[1 - OURS.index(clip.gold_label)] for clip in evaluator.clips}
    values = features(labels, 1)
    results = evaluate_transfer(
        ensemble,
        evaluator,
        {"joy": "happy", "anger": "angry"},
        local_predictions={"fusion": good, "text": poor},
        modalities=["text", "audio"],
        read=read_from({"text": values["text"], "audio": values["face"]}),
    )
    assert results["modalities"] == ["text"]
    assert results["here_alone"]["accuracy"] == 0
    assert results["loss_alone"]["low"] > 0 >= results["loss"]["difference"]
    assert "local text model (0.0000)" in transfer_summary("model", results)


@pytest.mark.parametrize("n_trained", [60, 0])
def test_known_clips_are_predicted_by_members_that_held_them_out(n_trained: int) -> None:
    """The labels are random, so only members that saw a clip, or its group, predict its label."""
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
    trained = replace(trained, folds=replace(trained.folds, is_trained=np.arange(60) < n_trained))
    evaluator = Evaluator(clips, OURS, EvaluateConfig(draws=100))
    results = transfer(
        trained, values, evaluator, {clip.clip_id: "happy" for clip in clips}, {name: name for name in OURS}
    )
    in_sample = OURS[1] == np.array(OURS)[trained.predict(values).classes]
    assert (results["trained_on"], results["held_out"]) == (n_trained, 60)
    summary = transfer_summary("model", results)
    assert "60 clips have ids of the model's corpus" in summary
    assert f"{n_trained} of them" in summary
    assert results["there"]["accuracy"] < 0.7 < (in_sample == (labels == 1)).mean()


def test_unknown_labels_raise_input_error(ensemble: Ensemble) -> None:
    assert label_map(("sad", "joy"), ("sad", "happy"), ["joy=happy"]) == {"sad": "sad", "joy": "happy"}
    for changes in (["joy=bored"], ["bored=happy"], ["joy"]):
        with pytest.raises(InputError) as caught:
            label_map(THEIRS, OURS, changes)
        assert f"--map {changes[0]}" in caught.value.message
        assert caught.value.hint is not None
    with pytest.raises(InputError, match="no label in common"):
        label_map(THEIRS, OURS, [])
    with pytest.raises(InputError, match="face, text"):
        transfer(ensemble, {"audio": np.zeros((4, 3))}, make_evaluator(np.arange(4) % 2), {}, {"joy": "happy"})
