"""Whether the refinement helps, and how far the label model can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecmf_pipeline.report.blocks import Block, Heading, Notice, Paragraph, Table, count, foreign, percent


def proof_blocks(evaluate: Mapping[str, Any] | None) -> list[Block]:
    """What `evaluate` found out about the refinement; nothing where it did not look."""
    metrics = evaluate or {}
    return [
        *_controls(metrics.get("controls")),
        *_belief(metrics.get("label_model")),
        *_methods(metrics.get("label_methods")),
    ]


def _controls(controls: Mapping[str, Any] | None) -> list[Block]:
    if not controls:
        return []
    blocks: list[Block] = [Heading("Does it help?")]
    fusion = controls.get("fusion")
    if fusion:
        blocks += _compared(fusion, "The fusion model", "Trained with the fusion model, ")
    elif reason := controls.get("no_fusion"):
        blocks.append(Notice(f"{reason[:1].upper()}{reason[1:]}."))
    return [*blocks, *_compared(controls, "One linear classifier", "Trained with a linear classifier, ")]


def _compared(found: Mapping[str, Any], who: str, begin: str) -> list[Block]:
    rows = [
        [foreign(name, 60), f"{one['weighted_f1']:.4f}", _over(one["over_given"]), _over(one["over_rebalanced"])]
        for name, one in sorted(found["sets"].items(), key=lambda item: -item[1]["weighted_f1"])
    ]
    columns = ["Trained on", "#Weighted F1", "#Over given labels (95%)", "#Over rebalanced ones (95%)"]
    caption = f"{who} on each training set, out of fold, judged by {found['judged_by']} labels"
    return [Paragraph(f"{begin}{found['sentence']}."), Table(caption, columns, rows)]


def _methods(found: Mapping[str, Any] | None) -> list[Block]:
    if not found or not found["clips"]:
        return []
    rows = [
        [
            foreign(name, 60),
            "yes" if one["learns"] else "no",
            percent(one["accuracy"], 1),
            f"{one['weighted_f1']:.4f}",
            f"{one['ece']:.3f}",
            _over(one["label_model_over"]),
        ]
        for name, one in sorted(found["methods"].items(), key=lambda item: -item[1]["accuracy"])
    ]
    columns = ["Method", "Learns from known labels", "#Right", "#Weighted F1", "#Calibration error"]
    columns.append("#The label model leads by (weighted F1, 95%)")
    best = max(found["methods"], key=lambda name: found["methods"][name]["accuracy"])
    sentence = (
        "The same votes, given labels among them, combined in other ways, judged by "
        f"{count(found['clips'], 'label')} known to be right; a method that learns from such labels has not seen those "
        f"it is judged by. Right most often: {best}."
    )
    caption = "The label model beside simpler and published methods"
    blocks: list[Block] = [Heading("Is there a better way to combine the votes?"), Paragraph(sentence)]
    blocks.append(Table(caption, columns, rows))
    if found["left_out"]:
        why = "; ".join(f"{name} ({reason})" for name, reason in found["left_out"].items())
        blocks.append(Paragraph(f"Not compared: {why}."))
    return blocks


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
