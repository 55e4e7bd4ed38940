"""Temperature, bias and examples come from clips of other groups."""

from __future__ import annotations

import numpy as np
import pytest

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.scoring import ScoringResult, probabilities, subtract_calibration
from ecmf_pipeline.llm.votes import fit_calibration, held_out_calibrations, prompts_by_fold


def drawn_labels(count: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(count, 4)) * 2
    labels = np.array([rng.choice(4, p=row) for row in probabilities(scores, temperature=temperature)])
    return scores, labels


def log_loss(log_scores: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(probabilities(log_scores)[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_fitted_temperature_is_that_of_the_labels(temperature: float) -> None:
    scores, labels = drawn_labels(4000, temperature)
    assert fit_calibration(scores, labels, bias=False).temperature == pytest.approx(temperature, rel=0.1)
    scores[::2], labels[1::4] = np.nan, -1
    calibration = fit_calibration(scores, labels, bias=False)
    assert calibration.temperature == pytest.approx(temperature, rel=0.2)
    assert calibration.labelled == 1000
    np.testing.assert_array_equal(calibration.bias, 0.0)


def test_the_fitted_bias_corrects_the_scores() -> None:
    scores, labels = drawn_labels(4000, 2.0)
    bias = np.array([3.0, 0.0, -1.0, -2.0])  # preference of the model, independent of the label
    calibration = fit_calibration(scores + bias, labels)
    assert calibration.temperature == pytest.approx(2.0, rel=0.1)
    np.testing.assert_allclose(calibration.bias, -bias / 2.0, atol=0.15)
    uncalibrated, truth = scores[2000:] + bias, labels[2000:]
    held_out = fit_calibration((scores + bias)[:2000], labels[:2000])(uncalibrated)
    assert log_loss(held_out, truth) < log_loss(uncalibrated, truth) - 0.3
    assert (held_out.argmax(axis=1) == truth).mean() > (uncalibrated.argmax(axis=1) == truth).mean() + 0.1


def test_a_fixed_temperature_is_not_fitted() -> None:
    scores, labels = drawn_labels(400, 2.0)
    calibration = fit_calibration(scores, labels, temperature=1.5)
    assert calibration.temperature == pytest.approx(1.5)
    assert np.abs(calibration.bias).max() > 0.01
    fixed = fit_calibration(scores, labels, temperature=1.5, bias=False)
    assert (fixed.temperature, fixed.labelled) == (1.5, 0)
    np.testing.assert_array_equal(fixed(scores), scores / 1.5)


def test_few_labels_change_the_bias_little() -> None:
    scores = np.zeros((30, 4))
    bias = fit_calibration(scores, np.zeros(30, int)).bias  # all of one label: the maximum likelihood bias is infinite
    assert probabilities(fit_calibration(scores, np.zeros(30, int))(scores))[0].max() < 0.97
    assert bias.argmax() == 0
    assert bias.mean() == pytest.approx(0)


def test_scores_with_too_few_labels_are_not_calibrated() -> None:
    scores, labels = drawn_labels(29, 3.0)
    scores = np.concatenate([scores, np.full((5, 4), np.nan)])
    calibration = fit_calibration(scores, np.concatenate([labels, np.zeros(5, int)]))
    assert (calibration.temperature, calibration.labelled) == (1.0, 0)
    np.testing.assert_array_equal(calibration(scores), scores)


def test_a_fold_does_not_affect_its_own_calibration() -> None:
    scores, labels = drawn_labels(400, 2.0)
    folds = np.arange(400) % 2
    before, fitted = held_out_calibrations(scores, labels, folds)
    labels[folds == 0] = scores[folds == 0].argmin(axis=1)
    after, altered = held_out_calibrations(scores, labels, folds)
    np.testing.assert_array_equal(after[folds == 0], before[folds == 0])
    assert altered[0] is not fitted[0]
    assert altered[0].temperature == fitted[0].temperature
    assert altered[1].temperature > fitted[1].temperature


def test_rows_of_nan_stay_nan() -> None:
    scores, labels = drawn_labels(100, 2.0)
    scores[3] = np.nan
    values, fitted = held_out_calibrations(scores, labels, np.arange(100) % 2)
    assert np.isnan(values).all(axis=1).nonzero()[0].tolist() == [3]
    assert [calibration.labelled for calibration in fitted] == [49, 50]  # row 3 is of fold 1


def test_examples_come_from_other_folds() -> None:
    labels, folds = ["happy", "sad"], np.arange(40) % 4
    texts = [f"this is the transcript of clip {number}" for number in range(40)]
    given = np.array([number // 4 % 3 - 1 for number in range(40)])
    prompts = prompts_by_fold(load_prompt("emotion_en"), texts, given, labels, folds, seed=7)
    assert sorted(prompts) == [0, 1, 2, 3]
    for fold, prompt in prompts.items():
        for index, label in enumerate(labels):
            number = texts.index(prompt.labels[label].example)
            assert folds[number] != fold
            assert given[number] == index
        assert prompt.labels["angry"] == load_prompt("emotion_en").labels["angry"]
    again = prompts_by_fold(load_prompt("emotion_en"), texts, given, labels, folds, seed=7)
    assert again == prompts
    assert len({str(prompt.settings()) for prompt in prompts.values()}) > 1, "each prompt has its own cache"


def test_no_example_has_the_text_of_a_clip_of_the_fold() -> None:
    labels, folds = ["happy", "sad"], np.arange(40) % 2
    # Every second clip of fold 0 has the text of a clip of fold 1 with another label, except for case and blanks.
    texts = [f"The transcript of clip {number}." for number in range(40)]
    for number in range(0, 40, 4):
        texts[number] = f"  {texts[number + 1].upper()} "
    given = np.array([number % 4 // 2 for number in range(40)])
    for seed in range(20):
        prompts = prompts_by_fold(load_prompt("emotion_en"), texts, given, labels, folds, seed=seed)
        for fold, prompt in prompts.items():
            texts_of_fold = {text.strip().casefold() for text, own in zip(texts, folds, strict=True) if own == fold}
            examples = {prompt.labels[label].example.strip().casefold() for label in labels}
            assert texts_of_fold.isdisjoint(examples)
    only = prompts_by_fold(
        load_prompt("emotion_en"), ["The same words."] * 4, np.zeros(4, int), ["happy"], folds[:4], seed=1
    )
    assert only[0].labels["happy"] == load_prompt("emotion_en").labels["happy"], "the example of the prompt file"


def test_scores_of_a_server_are_calibrated_by_those_of_the_calibration_texts() -> None:
    values = np.array([[1.0, 2.0], [np.nan, np.nan], [0.5, 0.0], [np.nan, np.nan], [1.5, 1.0]])
    result = subtract_calibration(ScoringResult(values, 5, 0, 0, 0, 0, 0), 3)
    np.testing.assert_array_equal(result.values, np.array([[0.0, 1.5], [np.nan, np.nan]]))
    with pytest.raises(ModelError) as caught:
        subtract_calibration(ScoringResult(np.full((3, 2), np.nan), 3, 0, 0, 0, 0, 0), 2)
    assert "llm.calibration: none" in str(caught.value.hint)
