"""Report the contribution of each modality and part: modality weights, ablation study, damaged inputs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES
from ecmf_pipeline.core.predictions import NO_MODALITY, Basis
from ecmf_pipeline.report.alternatives import smallest_blocks
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Collapsible,
    Figure,
    Heading,
    Notice,
    Paragraph,
    Section,
    Table,
    corpus_text,
    count,
    join_items,
    ordered_labels,
    percent,
    score,
    signed,
)
from ecmf_pipeline.report.charts import PALETTE, Interval, intervals, stacked
from ecmf_pipeline.report.conclusions import bounds, caveat
from ecmf_pipeline.report.inputs import PredictedClip, ReportInput
from ecmf_pipeline.report.metrics import Ablation, Difference, VariantRow
from ecmf_pipeline.report.words import given_label

MOST_FLAGGED = 20
"""Maximum number of rows of the table of clips without a usable modality."""
HEADINGS = {
    "alone": "Each modality alone",
    "left out": "Each modality left out",
    "view": "Global and face only",
    "text": "Raw and enriched text",
    "rows": "Frame sequences and pooled features",
    "fusion": "Other fusion models",
    "plain": "Plain models on the same features",
    "part": "Parts of the model and its training",
}
"""Heading of each comparison of `ablate`; a comparison without an entry is shown under its own name."""
ANCHOR, TITLE = "ablation", "Ablation study"


def weights_section(report: ReportInput, ablation: Ablation | None = None) -> Section:
    """Show the mean weight of each modality, and a warning if the fusion has collapsed onto one."""
    title = "Modality weights"
    weighted = [row for row in report.predictions if any(map(math.isfinite, row.modality_weights.values()))]
    is_zero_shot = report.corpus.get("basis") == Basis.ZERO_SHOT
    flagged = [] if is_zero_shot else _flagged([row for row in report.predictions if row.flag == NO_MODALITY])
    if not weighted:
        why = "No prediction has modality weights."
        if is_zero_shot or (ablation is not None and ablation.basis is Basis.ZERO_SHOT):
            why = "No modality weights: there are too few labels to train a model on."
        return Section("weights", title, [Notice(why), *flagged])
    modalities = list(dict.fromkeys(name for row in weighted for name in row.modality_weights))
    if len(modalities) == 1:
        text = f"{modalities[0]} has all the weight: no other modality has features."
        return Section("weights", title, [Paragraph(text[:1].upper() + text[1:]), *flagged])
    n_by_label = Counter(row.label for row in weighted)
    totals = _totals(weighted, modalities)
    labels = [label for label in ordered_labels(report.labels, totals) if label in totals]
    overall = [sum(column) for column in zip(*totals.values(), strict=True)]
    names, amounts = ["all labels", *labels], [overall, *(totals[label] for label in labels)]
    counts = [len(weighted), *(n_by_label[label] for label in labels)]
    sentence = _sentence(len(weighted), modalities, overall)
    chart = stacked(
        names,
        [(name, PALETTE[at % len(PALETTE)], [row[at] for row in amounts]) for at, name in enumerate(modalities)],
        alt=f"Mean modality weights. {sentence}",
        texts=[count(number, "clip") for number in counts],
    )
    rows = [
        [corpus_text(name), count(number), *(percent(value / (sum(row) or 1.0), 1) for value in row)]
        for name, number, row in zip(names, counts, amounts, strict=True)
    ]
    columns = ["Predicted label", "#Clips", *(f"#{name}" for name in modalities)]
    numbers = Table("Mean weight by predicted label", columns, rows)
    weight_warnings = ablation.weights.warnings if ablation else ()
    warnings = [Notice(f"{text[:1].upper()}{text[1:]}.") for text in weight_warnings]
    figure = Figure(chart, "Mean weight of each modality, over all clips and by predicted label.", numbers)
    return Section("weights", title, [*warnings, Paragraph(sentence), figure, *_distribution(ablation), *flagged])


def _distribution(ablation: Ablation | None) -> list[Block]:
    """Show the distribution of the modality weights of models trained on given labels, out of fold."""
    if ablation is None or not ablation.weights.modalities:
        return []
    rows = [
        [corpus_text(name), *map(score, (of.mean, of.std, of.q05, of.median, of.q95)), percent(of.heaviest)]
        for name, of in sorted(ablation.weights.modalities.items(), key=lambda item: _position(item[0], ablation))
    ]
    columns = ["Modality", "#Mean", "#Std", "#5%", "#Median", "#95%", "#Largest weight in"]
    effective = ablation.weights.effective_modalities
    text = (
        "Distribution of the weights over all clips: out-of-fold predictions of the models trained on "
        f"{given_label(ablation.basis)}s."
        + (
            f" Effective number of modalities: {effective:.1f} of {len(rows)} (exponential of the mean entropy)."
            if effective is not None
            else ""
        )
        + " A warning above the figure names a modality with nearly all the weight."
    )
    table = Table("Distribution of each modality's weight", columns, rows)
    return [Collapsible("Distribution of the weights", [Paragraph(text), table])]


def _position(modality: str, ablation: Ablation) -> int:
    order = ablation.reference.modalities
    return order.index(modality) if modality in order else len(order)


def _totals(weighed: Sequence[PredictedClip], modalities: Sequence[str]) -> dict[str, list[float]]:
    """Return the summed weights of each modality, by predicted label."""
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
    shares = f"{first} has the largest mean weight ({percent(most / total)})"
    if len(ranked) > 1:
        shares += f" and {last} the smallest ({percent(least / total)})"
    return (
        f"Over {count(clips, 'predicted clip')}, {shares}. A missing modality has weight 0. "
        "The weights show how the model combines its branches, not which of them is right."
    )


def _flagged(flagged: Sequence[PredictedClip]) -> list[Block]:
    if not flagged:
        return []
    rows = [
        [corpus_text(row.clip_id, MAX_CLIP_ID_BYTES), row.split, corpus_text(row.flag)]
        for row in flagged[:MOST_FLAGGED]
    ]
    table = Table("Clips without a usable modality", ["Clip", "Split", "Reason"], rows, hidden=len(flagged) - len(rows))
    return [
        Notice(f"{count(len(flagged), 'clip')} could not be predicted: no usable modality."),
        Collapsible("List of these clips", [table]),
    ]


def ablation_section(ablation: Ablation | None) -> Section:
    """Show the variants of the fusion and the fusion on damaged inputs, with 95% intervals."""
    if ablation is None or ablation.reference.weighted_f1 is None:
        why = "Not available: `ecmf-pipe ablate` has not run."
        if ablation is not None and ablation.basis is Basis.ZERO_SHOT:
            why = "No ablation study: there are too few labels to train models on."
        return Section(ANCHOR, TITLE, [Notice(why)])
    blocks: list[Block] = [Paragraph(_introduction(ablation))]
    blocks += [Paragraph(sentence) for sentence in _findings(ablation.variants)]
    if ablation.variants:
        tables = Collapsible("Scores of all variants", _tables(ablation.variants))
        blocks += [_chart(ablation.variants), tables]
    if ablation.smallest is not None:
        blocks += smallest_blocks(ablation)
    if ablation.skipped:
        rows = [[corpus_text(row.name), corpus_text(row.why, 200)] for row in ablation.skipped]
        table = Table("Variants that could not be trained", ["Variant", "Reason"], rows)
        blocks.append(Collapsible(f"{count(len(rows), 'variant')} could not be trained", [table]))
    return Section(ANCHOR, TITLE, [*blocks, *_robustness(ablation)])


def _introduction(ablation: Ablation) -> str:
    reference = ablation.reference
    text = (
        f"The reference is the fusion ({reference.kind}) of {join_items(reference.modalities)}, trained on "
        f"{given_label(ablation.basis)}s, and scored out of fold on {count(reference.clips, 'clip')}."
        f"{caveat(ablation.judged_by, ablation.basis)} Each difference is "
        "variant minus reference, with a 95% interval over clips (over groups if they are known) and seeds. Only these "
        "differences can be compared with other figures: a variant has one model for each fold and seed, and its score "
        "is the mean over seeds, while the headline averages the predictions of several models trained on refined "
        f"labels. Scored in this way, the reference has {score(reference.weighted_f1)}."
    )
    if ablation.mertools_protocol:
        optimistic_f1 = score(ablation.mertools_protocol.weighted_f1)
        text += (
            f" With the baseline's protocol, which selects epochs on the evaluation fold, it would be {optimistic_f1} "
            "(optimistic)."
        )
    return text


def _findings(variants: Sequence[VariantRow]) -> list[str]:
    """Summarise which variants differ significantly from the reference."""
    sentences = []
    for table, prefix, worse, not_worse in (
        ("left out", "Leaving out one modality: ", "significantly worse without {}", "no significant loss without {}"),
        ("fusion", "", "significantly worse fusion models: {}", "not significantly worse: {}"),
        ("part", "", "significantly worse variants of the model: {}", "not significantly worse: {}"),
    ):
        rows = [row for row in variants if row.table == table]
        if rows:
            parts = [
                text.format(join_items([row.name.removeprefix("without ") for row in chosen]))
                for text, chosen in (
                    (worse, _significantly_worse(rows)),
                    (not_worse, [row for row in rows if row not in _significantly_worse(rows)]),
                )
                if chosen
            ]
            sentence = prefix + "; ".join(parts)
            sentences.append(f"{sentence[:1].upper()}{sentence[1:]}.")
    return sentences


def _significantly_worse(rows: Iterable[VariantRow]) -> list[VariantRow]:
    return [row for row in rows if row.high is not None and row.high < 0]


def _chart(variants: Sequence[VariantRow]) -> Figure:
    rows = [
        Interval(row.name, row.difference, row.low, row.high, f"{signed(row.difference)} ({bounds(row) or UNKNOWN})")
        for row in variants
        if row.difference is not None
    ]
    alt = "; ".join(f"{row.name}: {row.text}" for row in rows)
    caption = (
        "Weighted F1 of each variant minus that of the fusion, with 95% intervals. Below zero the fusion is better; "
        "an interval that includes zero shows no significant difference."
    )
    return Figure(intervals(rows, alt=alt), caption)


def _tables(variants: Sequence[VariantRow]) -> list[Block]:
    blocks: list[Block] = []
    for name in dict.fromkeys(row.table for row in variants):
        rows = [
            [
                corpus_text(row.name),
                score(row.weighted_f1),
                signed(row.difference),
                bounds(row) or UNKNOWN,
                _significance(row),
            ]
            for row in variants
            if row.table == name
        ]
        columns = ["Variant", "#Weighted F1", "#Difference", "#95% interval", "Compared with fusion"]
        blocks.append(Table(HEADINGS.get(name, name), columns, rows))
    return blocks


def _robustness(ablation: Ablation) -> list[Block]:
    if not ablation.robustness:
        return []
    rows = [
        [
            corpus_text(row.modality),
            corpus_text(row.damage),
            score(row.weighted_f1),
            signed(row.difference),
            bounds(row) or UNKNOWN,
            UNKNOWN if row.trained_without is None else score(row.trained_without),
        ]
        for row in ablation.robustness
    ]
    columns = ["Modality", "Damage", "#Weighted F1", "#Difference", "#95% interval", "#F1 if trained without it"]
    text = (
        "The same models with one modality missing, with added noise, or shuffled between clips. For a missing "
        "modality, the last column shows the score of a model trained without it."
    )
    table = Table("Fusion on damaged inputs", columns, rows)
    return [Heading("Robustness to damaged inputs"), Paragraph(text), Collapsible("Scores on damaged inputs", [table])]


def _significance(row: Difference) -> str:
    if row.low is None or row.high is None:
        return UNKNOWN
    return "worse" if row.high < 0 else "better" if row.low > 0 else "no significant difference"
