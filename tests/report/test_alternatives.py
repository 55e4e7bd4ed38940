"""What next and the comparisons with simpler models follow the figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.report.alternatives import model_advice, smallest_blocks
from ecmf_pipeline.report.blocks import Collapsible, Paragraph
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import PredictedClip, ReportInput
from ecmf_pipeline.report.metrics import Ablation, read_ablation, read_evaluation
from ecmf_pipeline.report.overview import next_steps, tiles
from ecmf_pipeline.report.page import render
from ecmf_pipeline.runner.quarantine import QuarantineEntry
from tests.report.test_page import LABELS, ablation, evaluation, make_report_input, section_text

SAME, WORSE, BETTER = (-0.02, 0.03), (-0.2, -0.05), (0.05, 0.2)


def variant(name: str, bounds: tuple[float, float], table: str = "fusion") -> dict[str, Any]:
    low, high = bounds
    figures = {"weighted_f1": 0.7, "difference": (low + high) / 2, "low": low, "high": high}
    return {"table": table, "name": name, "without": "", **figures}


def advice(plain: tuple[float, float], *variants: dict[str, Any], **results: Any) -> str:
    """Return the advice if the fusion differs from an SVM by an interval, and variants from the fusion."""
    low, high = plain
    models = {"SVM": {"weighted_f1": 0.7, "fusion_over": {"difference": (low + high) / 2, "low": low, "high": high}}}
    metrics = read_evaluation(evaluation(LABELS) | {"plain": {"models": models}})
    return " ".join(
        text for text, _ in model_advice(metrics, read_ablation(ablation() | {"variants": variants} | results))
    )


def test_no_other_model_is_advised_if_the_fusion_is_better() -> None:
    assert advice(BETTER, variant("mean_probs", SAME)) == ""


def test_mean_probs_is_advised_only_if_it_does_as_well() -> None:
    assert "mean_probs" in advice(SAME, variant("mean_probs", SAME))
    assert "mean_probs" not in advice(SAME, variant("mean_probs", WORSE))
    assert "SVM" in advice(SAME, variant("mean_probs", WORSE))
    assert "mean_probs" not in advice(SAME)


def test_mean_probs_is_no_remedy_if_another_plain_model_is_better() -> None:
    text = advice(WORSE, variant("mean_probs", SAME))
    assert "mean_probs" not in text
    assert "SVM" in text


def test_a_better_fusion_model_is_advised_first() -> None:
    text = advice(WORSE, variant("mean_probs", SAME), variant("gated", BETTER), variant("concat", (0.01, 0.02)))
    assert "train.fusion.kind: gated" in text
    assert "SVM" not in text


def smallest(kept: list[str], low: float, high: float) -> dict[str, Any]:
    path = [{"kept": ["face", "text"], "weighted_f1": 0.7}, {"kept": ["text"], "weighted_f1": 0.695}]
    figures = {"weighted_f1": 0.69, "difference": (low + high) / 2, "low": low, "high": high}
    return {"smallest": {"kept": kept, "margin": 0.01, "path": path, **figures}}


def test_encoders_that_are_not_needed_are_named() -> None:
    assert "without face" in advice(BETTER, **smallest(["text"], -0.02, 0.01))
    assert advice(BETTER, **smallest(["text"], -0.2, -0.01)) == ""
    assert advice(BETTER, **smallest(["face", "text"], 0, 0)) == ""


def test_the_smallest_set_of_encoders_is_on_the_page() -> None:
    run = make_report_input(LABELS)
    results = ablation() | smallest(["text"], -0.02, 0.01)
    text = section_text(render(replace(run, ablate=results), ReportConfig()), "ablation")
    assert "at most 0.01 below the best on the training labels: text." in text
    assert "weighted F1 0.690" in text
    assert "1 text 0.695" in text
    all_kept = read_ablation(ablation() | smallest(["face", "text"], 0, 0)) or Ablation()
    sentence, table = smallest_blocks(all_kept)
    assert isinstance(sentence, Paragraph)
    assert sentence.text.startswith("No smaller set")
    assert isinstance(table, Collapsible)
    assert "Smallest set" not in section_text(render(run, ReportConfig()), "ablation")


def of_verdicts() -> ReportInput:
    """Return a run whose models are trained on verdicts: no clip has a given label of the corpus."""
    run = make_report_input(LABELS)
    metrics = evaluation(LABELS) | {"judged_by": "given", "basis": "verdicts", "labels": None}
    corpus = {**run.corpus, "basis": "verdicts"}
    return replace(run, corpus=corpus, evaluate=metrics, ablate=ablation() | {"judged_by": "given"})


def test_verdicts_are_not_called_given_labels() -> None:
    page = render(of_verdicts(), ReportConfig())
    for anchor in ("summary", "scores", "refinement", "ablation", "corpus"):
        text = section_text(page, anchor).lower().replace("the given label is kept", "")
        assert "given label" not in text.replace("another label replaces the given one", ""), anchor
        assert "verdict" in text


def test_verdicts_are_not_asked_for_if_they_judge() -> None:
    run = of_verdicts()
    sentences = " ".join(step.sentence for step in next_steps(run, read_evaluation(run.evaluate), None))
    assert "drawn at random" in sentences
    assert "at least 30 clips" not in sentences


@pytest.mark.parametrize(("interval", "asked"), [([0.4, 0.7], True), ([0.7, 0.8], False)])
def test_more_labels_are_asked_for_if_the_interval_is_wide(interval: list[float], asked: bool) -> None:
    run = make_report_input(LABELS)
    steps = next_steps(run, read_evaluation(evaluation(LABELS) | {"interval": interval}), None)
    assert any("Label more clips" in step.sentence for step in steps) == asked


def test_one_modality_is_not_compared_with_itself() -> None:
    run = make_report_input(LABELS)
    metrics = evaluation(LABELS) | {"modalities": {"text": {"clips": 12, "weighted_f1": 0.6}}}
    metrics["fusion_over_best_modality"] = None
    rows = [replace(row, modality_weights={"text": 1.0}) for row in run.predictions]
    names = [tile.name for tile in tiles(run, read_evaluation(metrics), None)]
    assert not any("single modality" in name for name in names)
    page = render(replace(run, evaluate=metrics, predictions=rows, ablate=None), ReportConfig())
    assert section_text(page, "weights").startswith("Modality weights Text has all the weight")
    assert "nothing is fused" in section_text(page, "summary")


def test_the_most_frequent_reason_of_quarantine_is_named() -> None:
    run = make_report_input(LABELS)
    entries = [
        QuarantineEntry(str(clip.clip_id), "extract", "face", "NoFaceFound", "0 of 16", "ab", "cd", "now")
        for clip in run.clips
    ]
    (step,) = [
        step.sentence
        for step in next_steps(replace(run, quarantine=entries), read_evaluation(run.evaluate), None)
        if "quarantined" in step.sentence
    ]
    assert "NoFaceFound (face, 12 clips)" in step


def test_clips_without_a_vote_are_not_without_a_modality() -> None:
    run = make_report_input(LABELS)
    labels = {"clips": 12, "labelled": 11, "abstained": 1, "verdicts_needed": 30, "sources": {"llm": {"votes": 11}}}
    rows = [PredictedClip("clip000", "train", "", None, {}, "no usable modality"), *run.predictions[1:]]
    run = replace(
        run,
        corpus={**run.corpus, "basis": "zero-shot"},
        evaluate={"basis": "zero-shot", "zero_shot": labels},
        ablate={"basis": "zero-shot"},
        predictions=rows,
        refined=[replace(row, basis=Basis.ZERO_SHOT) for row in run.refined],
    )
    page = render(run, ReportConfig())
    assert "no usable modality" not in page
    assert "no source voted" in page
