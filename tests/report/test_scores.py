"""Each conclusion in its four states: better, worse, no significant difference, unknown."""

from __future__ import annotations

from typing import Any

import pytest

from ecmf_pipeline.core.clips import ClipId, Split
from ecmf_pipeline.labels.refine import Decision, LabelAction
from ecmf_pipeline.report.conclusions import fusion_conclusion, labels_conclusion, majority_f1, training_conclusion
from ecmf_pipeline.report.metrics import Evaluation, read_evaluation

SINGLE = {"face": {"weighted_f1": 0.5}, "text": {"weighted_f1": 0.6}}
FUSION = {"given": {"weighted_f1": 0.7}, "refined": {"weighted_f1": 0.7}}


def evaluation_with_difference(
    key: str, difference: float | None, low: float | None, high: float | None, **more: Any
) -> Evaluation:
    interval = {"best": "text", "difference": difference, "low": low, "high": high}
    return read_evaluation(
        {"weighted_f1": 0.7, "judged_by": "gold", "modalities": SINGLE, "fusion": FUSION, key: interval} | more
    )


@pytest.mark.parametrize(
    ("interval", "state", "text"),
    [
        ((0.1, 0.02, 0.2), "better", "best single modality (text): weighted F1 +0.100, 95% interval"),
        ((-0.1, -0.2, -0.02), "worse", "significantly worse than the best single modality (text)"),
        ((0.03, -0.04, 0.09), "same", "not significantly different from the best single modality (text)"),
        ((0.05, 0.0, 0.09), "same", "interval includes zero"),
        ((0.05, None, None), "unknown", "+0.050"),
        ((None, None, None), "unknown", "best single modality"),
    ],
)
def test_conclusion_on_fusion(interval: tuple[float | None, ...], state: str, text: str) -> None:
    conclusion = fusion_conclusion(evaluation_with_difference("fusion_over_best_modality", *interval))
    assert conclusion.state == state
    assert text in conclusion.sentence


@pytest.mark.parametrize(
    ("interval", "state", "text"),
    [
        ((0.1, 0.02, 0.2), "better", "better than the one trained on the given labels"),
        ((-0.1, -0.2, -0.02), "worse", "worse than the one trained on the given labels"),
        (
            (-0.03, -0.09, 0.04),
            "same",
            "weighted F1 \N{MINUS SIGN}0.030, 95% interval \N{MINUS SIGN}0.090 to +0.040. The interval includes zero.",
        ),
        ((None, None, None), "unknown", "unknown"),
    ],
)
def test_conclusion_on_training_with_refined_labels(interval: tuple[float | None, ...], state: str, text: str) -> None:
    conclusion = training_conclusion(evaluation_with_difference("refined_over_given", *interval))
    assert conclusion.state == state
    assert text in conclusion.sentence


def evaluation_of_labels(given: float | None, refined: float | None, **more: Any) -> Evaluation:
    labels = {"given": {"clips": 96, "accuracy": given}, "refined": {"clips": 91, "accuracy": refined}, **more}
    return read_evaluation({"labels": labels})


def decision(action: LabelAction) -> Decision:
    return Decision(ClipId("a"), Split.TRAIN, "sad", "", action, 0.0, 0.9, 0.5, "")


DECISIONS = [decision(LabelAction.RELABEL), decision(LabelAction.DROP), decision(LabelAction.DROP)]


@pytest.mark.parametrize(
    ("counts", "state", "short"),
    [
        ({"fixed": 10, "broken": 1}, "better", "+9"),
        ({"fixed": 1, "broken": 4}, "worse", "\N{MINUS SIGN}3"),
        ({"fixed": 2, "broken": 2}, "same", "as many"),
        ({"dropped_wrong": 6, "dropped_right": 0}, "same", "no label changed"),  # dropping alone raises the accuracy
    ],
)
def test_labels_are_raised_only_if_labels_changed(counts: dict[str, int], state: str, short: str) -> None:
    decisions = DECISIONS if {"fixed", "broken"} & set(counts) else DECISIONS[1:]
    conclusion = labels_conclusion(evaluation_of_labels(0.8, 0.92, **counts), decisions)
    assert conclusion.state == state
    assert short in conclusion.short
    assert "80.0% of 96 given labels are right" in conclusion.sentence


def test_replacing_wrong_labels_by_wrong_ones_is_a_change() -> None:
    conclusion = labels_conclusion(evaluation_of_labels(0.8, 0.8), DECISIONS)
    assert (conclusion.state, conclusion.short) == ("same", "as many right as before")
    assert "replaced none" not in conclusion.sentence


def test_without_gold_labels_the_conclusion_on_labels_only_counts() -> None:
    conclusion = labels_conclusion(evaluation_of_labels(None, None), DECISIONS)
    assert conclusion.state == "unknown"
    assert "changed 1 given label and dropped 2" in conclusion.sentence


def test_conclusion_on_labels_counts_corrected_broken_and_dropped() -> None:
    counts = {"fixed": 10, "broken": 1, "dropped_wrong": 4, "dropped_right": 1}
    pseudo = {"clips": 12, "accuracy": 0.75}
    sentence = labels_conclusion(evaluation_of_labels(0.8, 0.9, **counts, pseudo=pseudo), DECISIONS).sentence
    assert "corrected 10 wrong labels and broke 1 right one." in sentence
    assert "dropped 4 wrong labels and 1 right one; of the 91 that are left, 90.0% are right." in sentence
    assert "Of 12 pseudo-labels with a gold label, 75.0% are right." in sentence


@pytest.mark.parametrize(
    ("person", "text"),
    [
        ({}, "corrected 6 wrong labels and broke 1 right one."),
        ({"fixed_by_verdicts": 6}, "corrected 6 wrong labels (all by human labels) and broke 1 right one."),
        (
            {"fixed_by_verdicts": 2, "broken_by_verdicts": 1},
            "corrected 6 wrong labels (2 of them by human labels) and broke 1 right one (by human labels).",
        ),
        ({"pseudo_by_verdicts": 3}, "Of 12 pseudo-labels with a gold label (3 of them by human labels), 75.0%"),
    ],
)
def test_labels_corrected_by_a_person_are_counted_separately(person: dict[str, int], text: str) -> None:
    found = evaluation_of_labels(0.8, 0.9, fixed=6, broken=1, pseudo={"clips": 12, "accuracy": 0.75}, **person)
    assert text in labels_conclusion(found, DECISIONS).sentence


def test_without_refinement_there_is_no_state() -> None:
    conclusion = labels_conclusion(evaluation_of_labels(0.8, 0.9), [])
    assert conclusion.state is None
    assert "did not run" in conclusion.sentence


def test_missing_labels_are_named_as_the_reason() -> None:
    assert "neither gold labels nor given labels" in fusion_conclusion(read_evaluation(None)).sentence


def test_a_single_modality_is_named_as_the_reason() -> None:
    lone = read_evaluation({"weighted_f1": 0.5, "modalities": {"face": {"weighted_f1": 0.5}}})
    assert "only one modality (face)" in fusion_conclusion(lone).sentence


def test_a_conclusion_from_given_labels_has_a_caveat() -> None:
    by_given = evaluation_with_difference("fusion_over_best_modality", 0.1, 0.02, 0.2, judged_by="given")
    assert "given labels, some of which may be wrong" in fusion_conclusion(by_given).sentence


def test_majority_f1_equals_weighted_f1_of_constant_predictions() -> None:
    from ecmf_pipeline.core.arrays import scores, weighted_f1

    truth = ["sad"] * 5 + ["happy"] * 3 + ["angry"] * 2
    stated = read_evaluation({"model": "given", "fusion": {"given": scores(truth, truth, ["sad", "happy", "angry"])}})
    assert majority_f1(stated) == pytest.approx(weighted_f1(truth, ["sad"] * 10))


def test_unknown_metric_keys_are_ignored() -> None:
    assert read_evaluation({"weighted_f1": 0.5, "calibration": {"error": 0.1}}).weighted_f1 == 0.5


def test_given_labels_do_not_evaluate_refined_ones():
    by_given = evaluation_with_difference("refined_over_given", 0.1, 0.02, 0.2, judged_by="given")
    conclusion = training_conclusion(by_given)
    assert conclusion.state == "unknown"
    assert "refinement used the given labels" in conclusion.sentence
