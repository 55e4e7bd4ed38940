"""Whether the refinement helps, and how far the label model can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecmf_pipeline.report.blocks import Block, Heading, Paragraph, Table, count, foreign, percent


def proof_blocks(evaluate: Mapping[str, Any] | None) -> list[Block]:
    """What `evaluate` found out about the refinement; nothing where it did not look."""
    metrics = evaluate or {}
    return [*_controls(metrics.get("controls")), *_belief(metrics.get("label_model"))]


def _controls(controls: Mapping[str, Any] | None) -> list[Block]:
    if not controls:
        return []
    rows = [
        [foreign(name, 60), f"{found['weighted_f1']:.4f}", _over(found["over_given"]), _over(found["over_rebalanced"])]
        for name, found in sorted(controls["sets"].items(), key=lambda item: -item[1]["weighted_f1"])
    ]
    caption = f"One linear classifier on each training set, out of fold, judged by {controls['judged_by']} labels"
    columns = ["Trained on", "#Weighted F1", "#Over given labels (95%)", "#Over rebalanced ones (95%)"]
    sentence = controls["sentence"]
    return [
        Heading("Does it help?"),
        Paragraph(f"{sentence[:1].upper()}{sentence[1:]}."),
        Table(caption, columns, rows),
    ]


def _belief(found: Mapping[str, Any] | None) -> list[Block]:
    if not found or not found["clips"]:
        return []
    sentence = (
        f"Over {count(found['clips'], 'clip')} whose gold label is known the label model's first choice is right "
        f"{percent(found['accuracy'], 1)} of the time; its probabilities are off by {found['ece']:.3f} on average "
        "(expected calibration error)."
    )
    curve = [[f"{p['confidence']:.2f}", percent(p["accuracy"], 1), count(p["clips"])] for p in found["curve"]]
    surest = [[percent(point["share"]), percent(point["accuracy"], 1)] for point in found["coverage"]]
    without = [
        [foreign(name, 60), percent(scores["accuracy"], 1), f"{scores['ece']:.3f}"]
        for name, scores in found["without"].items()
    ]
    blocks: list[Block] = [
        Heading("Can the label model be believed?"),
        Paragraph(sentence),
        Table("Reliability: how often labels of a probability are right", ["#Probability", "#Right", "#Clips"], curve),
        Table("The surest clips", ["#Share of clips", "#Right"], surest),
    ]
    if without:
        columns = ["Left out", "#Right without it", "#Calibration error"]
        blocks.append(Table("The label model without one family of sources", columns, without))
    return blocks


def _over(difference: Mapping[str, float]) -> str:
    return f"{difference['difference']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"
