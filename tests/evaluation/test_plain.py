"""Plain models as yardsticks of the fusion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Split
from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.evaluation import plain
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.plain import BEST, LIGHTGBM, LOGISTIC, MEAN, SVM, compare_plain, plain_predictions
from ecmf_pipeline.evaluation.scoring import Evaluator


def make_clips(clips: int = 80) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return features of two modalities, labels of four classes and two folds."""
    rng = np.random.default_rng(0)
    labels = np.arange(clips) % 4
    features = {
        name: (scale * rng.normal(size=(4, dim))[labels] + rng.normal(size=(clips, dim))).astype(np.float32)
        for name, dim, scale in (("face", 8, 1.2), ("audio", 12, 0.8))
    }
    return features, labels, np.arange(clips) // 4 % 2


def test_each_model_predicts_each_clip_and_the_best_is_one_of_them() -> None:
    features, labels, folds = make_clips()
    predicted = plain_predictions(features, labels, None, folds, seed=7)
    assert set(predicted) == {LOGISTIC, LIGHTGBM, SVM, MEAN, BEST}
    for name, classes in predicted.items():
        assert (classes == labels).mean() > 0.6, name
    for fold in range(2):
        rows = folds == fold
        assert any((predicted[BEST][rows] == predicted[name][rows]).all() for name in (LOGISTIC, LIGHTGBM, SVM, MEAN))


def test_features_and_labels_of_a_fold_do_not_affect_its_models() -> None:
    features, labels, folds = make_clips()
    held_out = np.flatnonzero(folds == 1)
    changed = {name: values.copy() for name, values in features.items()}
    for values in changed.values():
        values[held_out[1:]] *= 50
    other_labels = labels.copy()
    other_labels[held_out] = 3 - labels[held_out]
    one = plain_predictions(features, labels, None, folds, seed=7)
    two = plain_predictions(changed, other_labels, None, folds, seed=7)
    for name in one:
        assert one[name][held_out[0]] == two[name][held_out[0]], name


def test_components_of_inner_folds_are_fitted_without_their_held_out_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: set[tuple[int, int]] = set()
    components = plain._components

    def record(values: np.ndarray, training: np.ndarray, seed: int) -> np.ndarray:
        fitted.add((len(values), len(training)))
        return components(values, training, seed)

    monkeypatch.setattr(plain, "_components", record)
    features, labels, folds = make_clips()
    plain_predictions(features, labels, None, folds, seed=7)
    assert {sizes for sizes in fitted if sizes[0] == 80} == {(80, 40)}
    assert {rows for rows, _ in fitted} == {80, 40}
    assert all(training < rows for rows, training in fitted)


def test_missing_modalities_are_imputed_and_clips_without_any_are_not_predicted() -> None:
    features, labels, folds = make_clips()
    features["audio"][::3] = np.nan
    features["face"][1] = features["audio"][1] = np.nan
    for name, classes in plain_predictions(features, labels, None, folds, seed=7).items():
        assert (classes == -1).tolist() == [row == 1 for row in range(80)], name
        assert (classes == labels).mean() > 0.5, name


def test_unlabelled_clips_are_predicted_and_folds_of_minus_one_are_not() -> None:
    features, labels, folds = make_clips()
    given = np.where(np.arange(80) < 8, -1, labels)
    custom = np.where(np.arange(80) >= 72, -1, folds)
    predicted = plain_predictions(features, given, [f"s{row % 5}" for row in range(80)], custom, seed=7)[BEST]
    assert (predicted[:72] >= 0).all()
    assert (predicted[72:] == -1).all()


def test_clips_that_are_not_evaluated_are_held_out_with_their_fold() -> None:
    features, labels, folds = make_clips()
    names = [f"label{label}" for label in range(4)]
    is_gold = np.arange(80) % 3 == 0

    def compare(given: np.ndarray) -> dict[str, Any]:
        clips = [
            Clip(
                clip_id=ClipId(f"c{row}"),
                path=f"c{row}.mp4",
                split=Split.TRAIN,
                given_label=names[given[row]],
                gold_label=names[label] if is_gold[row] and folds[row] == 0 else "",
            )
            for row, label in enumerate(labels.tolist())
        ]
        evaluator = Evaluator(clips, names, EvaluateConfig(draws=100))
        corpus = Corpus(clips, names, candidates=[], synthetic=False)
        return compare_plain(evaluator, corpus, features, folds, evaluator.truths, seed=7)

    # Wrong labels of the other clips of the evaluated fold change nothing: no model is trained on them.
    assert compare(labels) == compare(np.where((folds == 0) & ~is_gold, 3 - labels, labels))


def test_frames_are_averaged() -> None:
    features, labels, folds = make_clips()
    frames = np.stack([features["face"] - 1, features["face"] + 1, np.full_like(features["face"], np.nan)], axis=1)
    pooled = plain_predictions({"face": features["face"]}, labels, None, folds, seed=7)
    assert MEAN not in pooled
    np.testing.assert_array_equal(plain_predictions({"face": frames}, labels, None, folds, seed=7)[SVM], pooled[SVM])


def test_one_class_is_too_few() -> None:
    features, labels, folds = make_clips()
    with pytest.raises(TooFewClips):
        plain_predictions(features, np.zeros_like(labels), None, folds, seed=7)


def test_the_fusion_is_compared_on_gold_labels_with_models_trained_on_given_ones() -> None:
    features, labels, folds = make_clips()
    names = ["angry", "happy", "neutral", "sad"]
    clips = [
        Clip(
            clip_id=ClipId(f"c{row}"),
            path=f"c{row}.mp4",
            split=Split.TRAIN if row % 5 else Split.CANDIDATE,
            given_label=names[label] if row % 5 else "",
            gold_label=names[label] if row % 2 else "",
        )
        for row, label in enumerate(labels.tolist())
    ]
    corpus = Corpus(clips, names, candidates=[], synthetic=False)
    evaluator = Evaluator(clips, names, EvaluateConfig(draws=100))
    perfect = evaluator.truths
    models = compare_plain(evaluator, corpus, features, folds, perfect, seed=7)["models"]
    assert set(models) == {LOGISTIC, LIGHTGBM, SVM, MEAN, BEST}
    for scores in models.values():
        assert 0.4 < scores["weighted_f1"] < 1
        assert scores["fusion_over"]["difference"] == pytest.approx(1 - scores["weighted_f1"], abs=1e-5)
    nothing = replace(corpus, clips=[replace(clip, given_label="") for clip in clips])
    assert compare_plain(evaluator, nothing, features, folds, perfect, seed=7)["models"] == {}
