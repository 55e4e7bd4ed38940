"""What earns its place in the fusion, and what damaged inputs cost: the tables of `ablate`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Figure,
    Heading,
    Notice,
    Paragraph,
    Section,
    Table,
    count,
    foreign,
    listing,
    score,
    signed,
)
from ecmf_pipeline.report.inputs import Ablation, Difference, VariantRow
from ecmf_pipeline.report.plots import Interval, intervals
from ecmf_pipeline.report.verdicts import GIVEN_CAVEAT

ANCHOR, TITLE = "ablation", "What earns its place"

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
                text.format(listing([_subject(row) for row in chosen]))
                for text, chosen in ((worse, _below(rows)), (same, [row for row in rows if row not in _below(rows)]))
                if chosen
            ]
            sentence = "; ".join(parts)
            sentences.append(f"{sentence[:1].upper()}{sentence[1:]}.")
    return sentences


def _subject(row: VariantRow) -> str:
    return row.name.removeprefix("without ")


def _below(rows: Iterable[VariantRow]) -> list[VariantRow]:
    return [row for row in rows if row.high is not None and row.high < 0]


def _drawing(variants: Sequence[VariantRow]) -> Figure:
    rows = [
        Interval(row.name, row.difference, row.low, row.high, _estimate(row))
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
            [foreign(row.name), score(row.weighted_f1), signed(row.difference), _interval(row), _verdict(row)]
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
            _interval(row),
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


def _interval(row: Difference) -> str:
    return UNKNOWN if row.low is None or row.high is None else f"{signed(row.low)} to {signed(row.high)}"


def _estimate(row: Difference) -> str:
    return f"{signed(row.difference)} ({_interval(row)})"
