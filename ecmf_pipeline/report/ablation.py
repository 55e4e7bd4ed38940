"""Report what each modality and part contributes: weights of the fused model, ablation study, damaged inputs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES
from ecmf_pipeline.report.blocks import (
    PALETTE,
    UNKNOWN,
    Block,
    Figure,
    Folded,
    Heading,
    Interval,
    Notice,
    Paragraph,
    Section,
    Table,
    count,
    foreign,
    in_order,
    intervals,
    listing,
    percent,
    score,
    signed,
    stacked,
)
from ecmf_pipeline.report.inputs import Ablation, Difference, PredictedClip, ReportInput, VariantRow
from ecmf_pipeline.report.scores import GIVEN_CAVEAT, bounds

MOST_FLAGGED = 20
"""Rows of the table of clips without a usable modality."""
HEADINGS = {
    "alone": "Each modality alone",
    "left out": "Each modality left out",
    "view": "Global pictures and faces",
    "text": "Raw against enriched text",
    "rows": "Frame by frame against pooled",
    "fusion": "Other fusion models",
    "part": "Parts of the model and of its training",
}
"""By the name that `ablate` gives a comparison; one that stands here not is shown under its own name."""
ANCHOR, TITLE = "ablation", "What earns its place"


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
    found = ablation.weights.warnings if ablation else ()
    warnings = [Notice(f"{text[:1].upper()}{text[1:]}.") for text in found]
    figure = Figure(drawing, "Mean weight of each modality, over all clips and by predicted label.", numbers)
    return Section("weights", title, [*warnings, Paragraph(sentence), figure, *_spread(ablation), *flagged])


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


def ablation_section(ablation: Ablation | None) -> Section:
    """Variants of the fusion against it, and the fusion on damaged inputs, with 95% intervals."""
    if ablation is None or ablation.reference.weighted_f1 is None:
        why = "`ecmf-pipe ablate` has not run: what each modality and part is worth is not known."
        return Section(ANCHOR, TITLE, [Notice(why)])
    blocks: list[Block] = [Paragraph(_introduction(ablation))]
    blocks += [Paragraph(sentence) for sentence in _findings(ablation.variants)]
    if ablation.variants:
        blocks += [_drawing(ablation.variants), *_tables(ablation.variants)]
    if ablation.skipped:
        rows = [[foreign(row.name), foreign(row.why, 200)] for row in ablation.skipped]
        blocks.append(Table("Variants that could not be trained", ["Variant", "Why"], rows))
    return Section(ANCHOR, TITLE, [*blocks, *_robustness(ablation)])


def _introduction(ablation: Ablation) -> str:
    base = ablation.reference
    caveat = f" {GIVEN_CAVEAT}" if ablation.judged_by == "given" else ""
    text = (
        f"The reference is the fusion ({base.kind}) of {listing(base.modalities)}, trained on given labels: weighted "
        f"F1 {score(base.weighted_f1)} over {count(base.clips, 'clip')}, each judged by models that saw neither it nor "
        f"its group.{caveat} A difference is that of a variant less the reference, with its 95% interval over clips "
        "(whole groups where they are known) and seeds."
    )
    if ablation.mertools_protocol:
        too_good = score(ablation.mertools_protocol.weighted_f1)
        text += f" By the baseline's protocol, which chooses epochs on what it reports, it would be {too_good}."
    return text


def _findings(variants: Sequence[VariantRow]) -> list[str]:
    """Which modalities and models the intervals tell apart from the reference."""
    sentences = []
    for table, worse, same in (
        ("left out", "Without {} the fusion is worse, beyond the interval", "leaving out {} is not shown to matter"),
        ("fusion", "Of the other models, worse beyond the interval: {}", "not shown to be worse: {}"),
        ("part", "Changes that cost, beyond the interval: {}", "not shown to cost anything: {}"),
    ):
        rows = [row for row in variants if row.table == table]
        if rows:
            parts = [
                text.format(listing([row.name.removeprefix("without ") for row in chosen]))
                for text, chosen in ((worse, _below(rows)), (same, [row for row in rows if row not in _below(rows)]))
                if chosen
            ]
            sentence = "; ".join(parts)
            sentences.append(f"{sentence[:1].upper()}{sentence[1:]}.")
    return sentences


def _below(rows: Iterable[VariantRow]) -> list[VariantRow]:
    return [row for row in rows if row.high is not None and row.high < 0]


def _drawing(variants: Sequence[VariantRow]) -> Figure:
    rows = [
        Interval(row.name, row.difference, row.low, row.high, f"{signed(row.difference)} ({bounds(row) or UNKNOWN})")
        for row in variants
        if row.difference is not None
    ]
    alt = "; ".join(f"{row.name}: {row.text}" for row in rows)
    caption = (
        "Weighted F1 of each variant less that of the fusion. Left of zero the fusion is better; where a whisker "
        "crosses zero, the difference may be chance."
    )
    return Figure(intervals(rows, alt=alt), caption)


def _tables(variants: Sequence[VariantRow]) -> list[Block]:
    blocks: list[Block] = []
    for name in dict.fromkeys(row.table for row in variants):
        rows = [
            [foreign(row.name), score(row.weighted_f1), signed(row.difference), bounds(row) or UNKNOWN, _verdict(row)]
            for row in variants
            if row.table == name
        ]
        columns = ["Variant", "#Weighted F1", "#Difference", "#95% interval", "Against the fusion"]
        blocks.append(Table(HEADINGS.get(name, name), columns, rows))
    return blocks


def _robustness(ablation: Ablation) -> list[Block]:
    if not ablation.robustness:
        return []
    rows = [
        [
            foreign(row.modality),
            foreign(row.damage),
            score(row.weighted_f1),
            signed(row.difference),
            bounds(row) or UNKNOWN,
            UNKNOWN if row.trained_without is None else score(row.trained_without),
        ]
        for row in ablation.robustness
    ]
    columns = ["Modality", "Damage", "#Weighted F1", "#Difference", "#95% interval", "#Trained without it"]
    text = (
        "The same models on inputs of which one modality is missing, noisy, or another clip's. What a model that was "
        "trained without the modality reaches stands beside the missing ones."
    )
    return [Heading("Damaged inputs"), Paragraph(text), Table("The fusion on damaged inputs", columns, rows)]


def _verdict(row: Difference) -> str:
    if row.low is None or row.high is None:
        return UNKNOWN
    return "worse" if row.high < 0 else "better" if row.low > 0 else "no difference shown"
