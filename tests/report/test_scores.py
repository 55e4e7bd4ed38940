"""Each verdict in its four cases: better, worse, no difference shown, not to be known."""

from __future__ import annotations

from typing import Any

import pytest

from ecmf_pipeline.report.inputs import Evaluation, read_evaluation
from ecmf_pipeline.report.scores import fusion_verdict, labels_verdict, majority_f1, training_verdict

ALONE = {"face": {"weighted_f1": 0.5}, "text": {"weighted_f1": 0.6}}
FUSION = {"given": {"weighted_f1": 0.7}, "refined": {"weighted_f1": 0.7}}


def differing(key: str, difference: float | None, low: float | None, high: float | None, **more: Any) -> Evaluation:
    spread = {"best": "text", "difference": difference, "low": low, "high": high}
    return read_evaluation(
        {"weighted_f1": 0.7, "judged_by": "gold", "modalities": ALONE, "fusion": FUSION, key: spread} | more
    )


@pytest.mark.parametrize(
    ("interval", "state", "words"),
    [
        ((0.1, 0.02, 0.2), "better", "Fusion beat the best single modality (text): weighted F1 +0.100, 95% interval"),
        ((-0.1, -0.2, -0.02), "worse", "Fusion did not beat the best single modality (text), it did worse"),
        ((0.03, -0.04, 0.09), "same", "did not demonstrably beat the best single modality (text)"),
        ((0.05, 0.0, 0.09), "same", "The interval includes zero."),
        ((0.05, None, None), "unknown", "cannot be known: weighted F1 +0.050, but no interval"),
        ((None, None, None), "unknown", "Whether fusion beat the best single modality cannot be known"),
    ],
)
def test_fusion(interval: tuple[float | None, ...], state: str, words: str) -> None:
    verdict = fusion_verdict(differing("fusion_over_best_modality", *interval))
    assert verdict.state == state
    assert words in verdict.sentence


@pytest.mark.parametrize(
    ("interval", "state", "words"),
    [
        ((0.1, 0.02, 0.2), "better", "trained on refined labels beat the one trained on the given labels"),
        ((-0.1, -0.2, -0.02), "worse", "did not beat the one trained on the given labels, it did worse"),
        (
            (-0.03, -0.09, 0.04),
            "same",
            "weighted F1 \N{MINUS SIGN}0.030, 95% interval \N{MINUS SIGN}0.090 to +0.040. The interval includes zero.",
        ),
        ((None, None, None), "unknown", "cannot be known"),
    ],
)
def test_training_on_refined_labels(interval: tuple[float | None, ...], state: str, words: str) -> None:
    verdict = training_verdict(differing("refined_over_given", *interval))
    assert verdict.state == state
    assert words in verdict.sentence


def judged(given: float | None, refined: float | None, **more: Any) -> Evaluation:
    labels = {"given": {"clips": 96, "accuracy": given}, "refined": {"clips": 91, "accuracy": refined}, **more}
    return read_evaluation({"labels": labels})


@pytest.mark.parametrize(
    ("given", "refined", "state", "words"),
    [
        (0.8, 0.92, "better", "Refinement raised the training labels' accuracy: from 80.0% (of 96 clips) to 92.0%"),
        (0.9, 0.85, "worse", "did not raise the training labels' accuracy, it lowered it: from 90.0% (of 96 clips)"),
        (0.9, 0.9, "same", "did not raise the training labels' accuracy: it stayed at 90.0%"),
        (0.9, None, "unknown", "cannot be known: no gold labels are known for the training clips"),
        (None, None, "unknown", "cannot be known: no gold labels are known for the training clips"),
    ],
)
def test_labels(given: float | None, refined: float | None, state: str, words: str) -> None:
    verdict = labels_verdict(judged(given, refined), refined=True)
    assert verdict.state == state
    assert words in verdict.sentence


def test_labels_tell_what_was_corrected_broken_and_dropped() -> None:
    counts = {"fixed": 10, "broken": 1, "dropped_wrong": 4, "dropped_right": 1}
    pseudo = {"clips": 12, "accuracy": 0.75}
    sentence = labels_verdict(judged(0.8, 0.9, **counts, pseudo=pseudo), refined=True).sentence
    assert "corrected 10 wrong labels and broke 1 right one" in sentence
    assert "dropped 4 wrong labels and 1 right one (dropped clips no longer count)" in sentence
    assert "Of 12 judged pseudo-labels, 75.0% are right." in sentence


@pytest.mark.parametrize(
    ("person", "words"),
    [
        ({}, "corrected 6 wrong labels and broke 1 right one;"),
        ({"fixed_by_verdicts": 6}, "corrected 6 wrong labels (all by verdicts) and broke 1 right one;"),
        (
            {"fixed_by_verdicts": 2, "broken_by_verdicts": 1},
            "corrected 6 wrong labels (2 of them by verdicts) and broke 1 right one (by verdicts);",
        ),
        ({"pseudo_by_verdicts": 3}, "Of 12 judged pseudo-labels (3 of them by verdicts), 75.0% are right."),
    ],
)
def test_what_a_person_corrected_is_not_told_as_the_methods_work(person: dict[str, int], words: str) -> None:
    found = judged(0.8, 0.9, fixed=6, broken=1, pseudo={"clips": 12, "accuracy": 0.75}, **person)
    assert words in labels_verdict(found, refined=True).sentence


def test_no_refinement_is_not_an_unknown_outcome() -> None:
    verdict = labels_verdict(judged(0.8, 0.9), refined=False)
    assert verdict.state is None
    assert "No refinement was run" in verdict.sentence


def test_no_labels_at_all_is_given_as_the_reason() -> None:
    assert "no gold labels and no given labels" in fusion_verdict(read_evaluation(None)).sentence


def test_one_modality_is_given_as_the_reason() -> None:
    lone = read_evaluation({"weighted_f1": 0.5, "modalities": {"face": {"weighted_f1": 0.5}}})
    assert "fewer than two modalities" in fusion_verdict(lone).sentence


def test_a_verdict_by_given_labels_says_so() -> None:
    by_given = differing("fusion_over_best_modality", 0.1, 0.02, 0.2, judged_by="given")
    assert "judged by the given labels, some of which may be wrong" in fusion_verdict(by_given).sentence


def test_the_commonest_label_alone_scores_what_scikit_learn_says() -> None:
    from ecmf_pipeline.core.arrays import scores, weighted_f1

    truth = ["sad"] * 5 + ["happy"] * 3 + ["angry"] * 2
    stated = read_evaluation({"model": "given", "fusion": {"given": scores(truth, truth, ["sad", "happy", "angry"])}})
    assert majority_f1(stated) == pytest.approx(weighted_f1(truth, ["sad"] * 10))


def test_keys_of_a_later_version_are_left_alone() -> None:
    assert read_evaluation({"weighted_f1": 0.5, "calibration": {"error": 0.1}}).weighted_f1 == 0.5


def test_given_labels_are_no_judge_of_what_was_refined_from_them():
    by_given = differing("refined_over_given", 0.1, 0.02, 0.2, judged_by="given")
    verdict = training_verdict(by_given)
    assert verdict.state == "unknown"
    assert "what the refinement was made from" in verdict.sentence
