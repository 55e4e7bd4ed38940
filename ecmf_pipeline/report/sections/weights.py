"""What the fused model draws on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES
from ecmf_pipeline.report.blocks import (
    Block,
    Figure,
    Folded,
    Notice,
    Paragraph,
    Section,
    Table,
    count,
    foreign,
    percent,
    score,
)
from ecmf_pipeline.report.inputs import Ablation, PredictedClip, ReportInput
from ecmf_pipeline.report.plots import PALETTE, stacked
from ecmf_pipeline.report.sections.corpus import in_order

MOST_FLAGGED = 20
"""Rows of the table of clips without a usable modality."""


def weights_section(report: ReportInput, ablation: Ablation | None = None) -> Section:
    """What share each modality has in the predictions, and whether the fusion has collapsed onto one."""
    title = "Modality weights"
    weighed = [row for row in report.predictions if any(map(math.isfinite, row.modality_weights.values()))]
    flagged = _flagged([row for row in report.predictions if row.flag])
    if not weighed:
        return Section("weights", title, [Notice("There are no predictions with modality weights to show."), *flagged])
    modalities = list(dict.fromkeys(name for row in weighed for name in row.modality_weights))
    sizes = Counter(row.label for row in weighed)
    totals = _totals(weighed, modalities)
    labels = [label for label in in_order(report.labels, totals) if label in totals]
    overall = [sum(column) for column in zip(*totals.values(), strict=True)]
    names, amounts = ["all labels", *labels], [overall, *(totals[label] for label in labels)]
    counts = [len(weighed), *(sizes[label] for label in labels)]
    sentence = _sentence(len(weighed), modalities, overall)
    drawing = stacked(
        names,
        [(name, PALETTE[at % len(PALETTE)], [row[at] for row in amounts]) for at, name in enumerate(modalities)],
        alt=f"Mean modality weights. {sentence}",
        texts=[count(number, "clip") for number in counts],
    )
    rows = [
        [foreign(name), count(number), *(percent(value / (sum(row) or 1.0), 1) for value in row)]
        for name, number, row in zip(names, counts, amounts, strict=True)
    ]
    columns = ["Predicted label", "#Clips", *(f"#{name}" for name in modalities)]
    numbers = Table("Mean weight by predicted label", columns, rows)
    figure = Figure(drawing, "Mean weight of each modality, over all clips and by predicted label.", numbers)
    return Section("weights", title, [*_warnings(ablation), Paragraph(sentence), figure, *_spread(ablation), *flagged])


def _warnings(ablation: Ablation | None) -> list[Block]:
    return [Notice(f"{text[:1].upper()}{text[1:]}.") for text in ablation.weights.warnings] if ablation else []


def _spread(ablation: Ablation | None) -> list[Block]:
    """How the weights of the models trained on given labels are spread over clips that these did not see."""
    if ablation is None or not ablation.weights.modalities:
        return []
    rows = [
        [foreign(name), *map(score, (of.mean, of.std, of.q05, of.median, of.q95)), percent(of.heaviest)]
        for name, of in sorted(ablation.weights.modalities.items(), key=lambda item: _place(item[0], ablation))
    ]
    columns = ["Modality", "#Mean", "#Deviation", "#5%", "#Median", "#95%", "#Heaviest for"]
    effective = ablation.weights.effective_modalities
    text = (
        "Spread of the weights over all clips, out of fold, by the models trained on given labels"
        + (f": as if {effective:.1f} of {len(rows)} modalities weighed the same" if effective is not None else "")
        + ". Where one modality has nearly all the weight, a warning stands above."
    )
    return [Paragraph(text), Table("Spread of each modality's weight", columns, rows)]


def _place(modality: str, ablation: Ablation) -> int:
    order = ablation.reference.modalities
    return order.index(modality) if modality in order else len(order)


def _totals(weighed: Sequence[PredictedClip], modalities: Sequence[str]) -> dict[str, list[float]]:
    """The sum of each modality's weights, by predicted label."""
    totals: dict[str, list[float]] = {}
    for row in weighed:
        tally = totals.setdefault(row.label, [0.0] * len(modalities))
        for position, name in enumerate(modalities):
            share = row.modality_weights.get(name, 0.0)
            tally[position] += share if math.isfinite(share) else 0.0
    return totals


def _sentence(clips: int, modalities: Sequence[str], overall: Sequence[float]) -> str:
    total = sum(overall) or 1.0
    ranked = sorted(zip(overall, modalities, strict=True), key=lambda pair: -pair[0])
    (most, first), (least, last) = ranked[0], ranked[-1]
    drawn = f"the model draws most on {first} ({percent(most / total)} of the weight)"
    if len(ranked) > 1:
        drawn += f" and least on {last} ({percent(least / total)})"
    return (
        f"Over {count(clips, 'predicted clip')}, {drawn}. A clip that lacks a modality gives it no weight. "
        "The weights say how the model mixes its branches, not which of them is right."
    )


def _flagged(flagged: Sequence[PredictedClip]) -> list[Block]:
    if not flagged:
        return []
    rows = [[foreign(row.clip_id, MAX_CLIP_ID_BYTES), row.split, foreign(row.flag)] for row in flagged[:MOST_FLAGGED]]
    table = Table(
        "Clips without a prediction of their own", ["Clip", "Split", "Why"], rows, hidden=len(flagged) - len(rows)
    )
    return [Notice(f"{count(len(flagged), 'clip')} could not be judged by any modality."), Folded("Which", [table])]
