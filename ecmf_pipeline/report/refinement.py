"""Report the label refinement: decisions, scores, reliability of the sources, and each change with its votes."""

from __future__ import annotations

from collections import Counter

from markupsafe import Markup

from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.labels.refine import LabelAction
from ecmf_pipeline.report.blocks import (
    Block,
    Cell,
    Collapsible,
    Figure,
    Heading,
    Notice,
    Paragraph,
    Section,
    Table,
    count,
    fold_long,
    label_column,
    name_text,
    ordered_labels,
    percent,
)
from ecmf_pipeline.report.cards import label_after
from ecmf_pipeline.report.charts import Bar, bars
from ecmf_pipeline.report.conclusions import labels_conclusion
from ecmf_pipeline.report.evidence import evidence_blocks, vote_source_blocks, votes_by_source
from ecmf_pipeline.report.inputs import ReportInput, column
from ecmf_pipeline.report.metrics import Evaluation, LabelAccuracy
from ecmf_pipeline.report.words import ABSENT, DECISIONS, given_label
from ecmf_pipeline.report.zero_shot import UNVERIFIED, next_step


def refinement_section(report: ReportInput, evaluation: Evaluation) -> Section:
    """Show decisions, changed labels and votes."""
    title = "Label refinement"
    conclusion = labels_conclusion(evaluation, report.refined)
    given = given_label(evaluation.basis)
    if not report.refined:
        return Section("refinement", title, [Notice(conclusion.sentence)])
    if evaluation.zero_shot is not None:
        return Section(
            "refinement",
            f"Labels: {UNVERIFIED}",
            [
                Paragraph(next_step(evaluation.zero_shot)),
                *votes_by_source(report),
            ],
        )
    blocks: list[Block] = [*_decisions(report, given), *_matrix(report, given)]
    if evaluation.basis is not Basis.VERDICTS:
        blocks.insert(0, Paragraph(conclusion.sentence))
    details = {
        "Accuracy of the training labels": _accuracy(evaluation),
        "Effect of refined labels, methods and calibration": evidence_blocks(report.evaluate),
        "Votes and reliability of the sources": [*votes_by_source(report), *vote_source_blocks(report.vote_sources)],
    }
    blocks += [Collapsible(name, inner) for name, inner in details.items() if inner]
    return Section("refinement", title, blocks)


def _accuracy(evaluation: Evaluation) -> list[Block]:
    labels = evaluation.labels
    if labels is None:
        return []
    sets: dict[str, LabelAccuracy | None] = {
        "given labels": labels.given,
        "refined labels": labels.refined,
        "pseudo-labels": labels.pseudo,
    }
    rows = [
        [name, count(part.clips), percent(part.accuracy, 1) if part.accuracy is not None else "unknown"]
        for name, part in sets.items()
        if part is not None
    ]
    return [Table("Accuracy of the training labels (gold labels as truth)", ["Labels", "#Clips", "#Accuracy"], rows)]


def _decisions(report: ReportInput, given_name: str) -> list[Block]:
    tally = Counter(map(LabelAction, column(report.refined, "decision")))
    groups = []
    for name, (colour, description, _) in DECISIONS.items():
        share = percent(tally[name] / len(report.refined))
        groups.append((description, [Bar(float(tally[name]), f"{count(tally[name])} ({share})", colour)]))
    given, actions = (column(report.refined, name) for name in ("given_label", "decision"))
    had_label = sum(map(bool, given))
    n_for_review = sum(
        action == LabelAction.REVIEW and bool(label) for label, action in zip(given, actions, strict=True)
    )
    sentence = (
        f"Of {count(had_label, given_name)}, {count(tally[LabelAction.KEEP])} were kept, "
        f"{count(tally[LabelAction.DOWN_WEIGHT])} kept with a lower weight, {count(tally[LabelAction.RELABEL])} "
        f"replaced, {count(tally[LabelAction.DROP])} dropped"
        + (f", {count(n_for_review)} kept with a low weight and listed for review." if n_for_review else ".")
    )
    meanings = "; ".join(f"{description}: {meaning}" for _, description, meaning in DECISIONS.values())
    rows = [[description, count(tally[name])] for name, (_, description, _) in DECISIONS.items()]
    numbers = Table("Clips by decision", ["Decision", "#Clips"], rows)
    drawing = bars(groups, alt=f"Decisions of the refinement. {sentence}")
    return [Heading("Decisions"), Paragraph(sentence), Figure(drawing, f"Clips by decision ({meanings}).", numbers)]


def _matrix(report: ReportInput, given_name: str) -> list[Block]:
    columns_of_labels = (column(report.refined, name) for name in ("given_label", "decision", "refined_label"))
    tally = Counter(zip(*columns_of_labels, strict=True))
    transitions: Counter[tuple[str, str]] = Counter()
    for (given, action, refined), number in tally.items():
        if action != LabelAction.LEAVE:
            transitions[given or ABSENT, label_after(LabelAction(action), refined)] += number
    outcomes = {ABSENT, "dropped", "for review"}
    other_labels = {label for pair in transitions for label in pair} - outcomes
    labels = ordered_labels(report.labels, other_labels)
    starts = [*labels, *([ABSENT] if any(start == ABSENT for start, _ in transitions) else [])]
    ends = [*labels, *(end for end in ("dropped", "for review", ABSENT) if any(to == end for _, to in transitions))]
    changes = {pair: number for pair, number in transitions.items() if pair[0] != pair[1]}
    largest = max(changes.values(), default=1)
    rows: list[list[str | Cell]] = []
    for start in starts:
        cells = [
            Cell(count(number)) if start == end else Cell(count(number) if number else "", number / largest, "change")
            for end, number in ((end, transitions[start, end]) for end in ends)
        ]
        rows.append([name_text(start), *cells])
    changed_given = {pair: number for pair, number in changes.items() if pair[0] != ABSENT and pair[1] not in outcomes}
    if changed_given:
        start, end = max(changed_given, key=lambda pair: (changed_given[pair], pair))
        sentence = Markup("{} changed. The most frequent change is {} to {} ({}).").format(
            count(sum(changed_given.values()), given_name),
            name_text(start),
            name_text(end),
            count(changed_given[start, end], "clip"),
        )
    else:
        sentence = Markup("No {} was replaced by another.").format(given_name)
    if dropped := sum(number for (_, end), number in changes.items() if end == "dropped"):
        sentence += f" {count(dropped, given_name)} dropped."
    caption = f"Label changes: {given_name} (rows) and label after refinement (columns). Changes are tinted."
    columns = [given_name.capitalize(), *(label_column(end) for end in ends)]
    return [
        Heading("Label changes"),
        Paragraph(sentence),
        *fold_long(
            [Table(caption, columns, rows, spread="After refinement", spread_over=len(ends))],
            len(rows),
            f"Changes of {count(len(rows), 'label')}",
        ),
    ]
