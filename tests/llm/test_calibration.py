"""Temperature and examples come from clips of other groups."""

from __future__ import annotations

import numpy as np
import pytest

from ecmf_pipeline.errors import ModelError
from ecmf_pipeline.llm.calibration import fit_temperature, held_out_temperatures
from ecmf_pipeline.llm.examples import prompts_by_fold
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.scoring import Scored, probabilities
from ecmf_pipeline.llm.server_calibration import calibrated


def drawn(count: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(count, 4)) * 2
    labels = np.array([rng.choice(4, p=row) for row in probabilities(scores, temperature=temperature)])
    return scores, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature: float) -> None:
    scores, labels = drawn(4000, temperature)
    assert fit_temperature(scores, labels) == pytest.approx(temperature, rel=0.1)
    scores[::2], labels[1::4] = np.nan, -1
    assert fit_temperature(scores, labels) == pytest.approx(temperature, rel=0.2)


def test_too_few_labels_say_nothing() -> None:
    scores, labels = drawn(29, 3.0)
    assert fit_temperature(scores, labels) == 1


def test_a_fold_has_no_part_in_its_own_temperature() -> None:
    scores, labels = drawn(400, 2.0)
    folds = np.arange(400) % 2
    before = held_out_temperatures(scores, labels, folds)
    labels[folds == 0] = scores[folds == 0].argmin(axis=1)
    after = held_out_temperatures(scores, labels, folds)
    assert (after[folds == 0] == before[folds == 0]).all()
    assert (after[folds == 1] > before[folds == 1]).all()


def test_examples_are_given_labels_of_other_folds() -> None:
    labels, folds = ["happy", "sad"], np.arange(40) % 4
    texts = [f"this is what the clip {number} says" for number in range(40)]
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
    assert len({str(prompt.settings()) for prompt in prompts.values()}) > 1, "another prompt is another cache"


def test_a_servers_scores_are_calibrated_by_what_it_says_of_the_calibration_texts() -> None:
    values = np.array([[1.0, 2.0], [np.nan, np.nan], [0.5, 0.0], [np.nan, np.nan], [1.5, 1.0]])
    found = calibrated(Scored(values, 5, 0, 0, 0, 0, 0), 3)
    np.testing.assert_array_equal(found.values, np.array([[0.0, 1.5], [np.nan, np.nan]]))
    with pytest.raises(ModelError, match="calibration"):
        calibrated(Scored(np.full((3, 2), np.nan), 3, 0, 0, 0, 0, 0), 2)
