"""Report single clips: the map, the table of label decisions, clips to check, and the clips behind each confusion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from markupsafe import Markup

from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.labels.refine import LabelAction
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Cell,
    Collapsible,
    Figure,
    Heading,
    Notice,
    Paragraph,
    Section,
    Table,
    corpus_text,
    count,
    label_column,
    name_text,
    percent,
)
from ecmf_pipeline.report.cards import Cards, decision_table, rows_by_clip
from ecmf_pipeline.report.conclusions import evaluation_basis, truth_name
from ecmf_pipeline.report.inputs import ReportInput, column
from ecmf_pipeline.report.map import draw_map
from ecmf_pipeline.report.metrics import Confusion, Evaluation
from ecmf_pipeline.report.neighbours import MOST_PAIRS
from ecmf_pipeline.report.sample import MOST_OUTLIERS
from ecmf_pipeline.report.words import ABSENT, DECISIONS

SHOWN = 10
"""Rows of a table of clips to check; the rest is folded."""
_MOST_ROWS = 200
_CELL_CLIPS = 60
"""Clips that are listed for one cell of the confusion matrix."""


def clips_section(report: ReportInput, evaluation: Evaluation, cards: Cards, pictures: str) -> Section:
    """Show the map, the table of label decisions, and clips to check."""
    title = "Clips"
    if not cards.cards:
        return Section("clips", title, [Notice("The manifest lists no clips.")])
    blocks: list[Block] = [Paragraph(f"{_held(cards)} {pictures}")]
    if report.clip_map is not None:
        drawing = draw_map(report.clip_map, cards, report.labels)
        text = (
            f"{report.clip_map.method}. Near points are similar clips. An outline marks a wrong "
            "prediction. Click a point for the card of the clip; the table below has the same clips for the keyboard."
        )
        blocks += [Heading("Map"), Figure(drawing, text)]
    given = "Verdict" if evaluation.basis is Basis.VERDICTS else "Given"
    blocks += [
        Heading("Label decisions"),
        Paragraph("The probability is that of the label after refinement; click a clip for its votes and its reason."),
        decision_table(cards, given=given, judged=truth_name(evaluation)),
        *_label_issues(report, cards),
        *_duplicates(report, cards),
        *_outliers(report, cards),
    ]
    return Section("clips", title, blocks)


def _held(cards: Cards) -> str:
    if len(cards.cards) == cards.clips:
        return f"This page holds a card of each of the {count(cards.clips, 'clip')}."
    return (
        f"This page holds cards of {count(len(cards.cards))} of {count(cards.clips, 'clip')}: changed, dropped, "
        "reviewed and misjudged clips first, then a random sample. Figures elsewhere on this page cover all clips."
    )


def _label_issues(report: ReportInput, cards: Cards) -> list[Block]:
    if report.label_issues is None:
        return []
    issues = report.label_issues
    blocks: list[Block] = [Heading("Probable label errors")]
    if not issues:
        return [*blocks, Paragraph("Confident learning finds no given label that is probably wrong.")]
    decisions = dict(zip(*(column(report.refined, name) for name in ("clip_id", "decision")), strict=True))
    handled = {LabelAction.RELABEL, LabelAction.DROP, LabelAction.REVIEW, LabelAction.DOWN_WEIGHT}
    n_handled = sum(decisions.get(one.clip_id) in handled for one in issues)
    sentence = (
        f"Confident learning (as in cleanlab) finds {count(len(issues), 'given label')} that "
        f"{'is' if len(issues) == 1 else 'are'} probably wrong, from predictions of models that were not trained on "
        f"the clip. The refinement changed, dropped, down-weighted or listed {count(n_handled)} of them."
    )
    rows: list[list[str | Cell]] = [
        [
            cards.link(one.clip_id),
            Markup("{} {:.2f}").format(name_text(one.given), one.given_probability),
            Markup("{} {:.2f}").format(name_text(one.likely), one.likely_probability),
            DECISIONS[LabelAction(decisions[one.clip_id])][1] if one.clip_id in decisions else UNKNOWN,
        ]
        for one in issues[:_MOST_ROWS]
    ]
    columns = ["Clip", "Given label", "Likely label", "Decision"]
    return [*blocks, Paragraph(sentence), *_folded("Probable label errors", columns, rows, len(issues))]


def _duplicates(report: ReportInput, cards: Cards) -> list[Block]:
    pairs = report.neighbours.duplicates if report.neighbours else ()
    if not pairs:
        return []
    rows_of = rows_by_clip(report.clips)
    rows: list[list[str | Cell]] = []
    n_differing = 0
    for first, second, similarity in pairs:
        clips = [report.clips[rows_of[name]] for name in (first, second)]
        labels = [clip.given_label or clip.gold_label or UNKNOWN for clip in clips]
        differ = UNKNOWN not in labels and labels[0] != labels[1]
        n_differing += differ
        text = Markup("{}, {}").format(*(name_text(label) for label in labels))
        shown: str | Cell = Cell(text, 0.5, "change") if differ else text
        splits = ", ".join(dict.fromkeys(clip.split.value for clip in clips))
        rows.append([cards.link(first), cards.link(second), f"{similarity:.3f}", shown, splits])
    found = count(len(pairs), "pair") if len(pairs) < MOST_PAIRS else f"The {count(len(pairs))} most similar pairs"
    sentence = f"{found} of clips with nearly the same features in each modality ({_with_labels(n_differing)})."
    columns = ["Clip", "Other clip", "#Similarity", "Labels", "Split"]
    return [Heading("Near-duplicates"), Paragraph(sentence), *_folded("Near-duplicates", columns, rows, len(pairs))]


def _with_labels(n_differing: int) -> str:
    return f"{count(n_differing)} with different labels" if n_differing else "none with different labels"


def _outliers(report: ReportInput, cards: Cards) -> list[Block]:
    outliers = report.neighbours.outliers if report.neighbours else ()
    if not outliers:
        return []
    rows_of = rows_by_clip(report.clips)
    rows: list[list[str | Cell]] = []
    for clip_id, distance in outliers[:MOST_OUTLIERS]:
        clip, card = report.clips[rows_of[clip_id]], cards.by_clip.get(clip_id)
        rows.append(
            [
                cards.link(clip_id),
                f"{distance:.1f}",
                name_text(card.label_after if card else clip.given_label or ABSENT),
                corpus_text(clip.transcript, 60) if clip.transcript else UNKNOWN,
            ]
        )
    sentence = (
        f"{count(len(outliers), 'clip')} with unusual features: the distance to the nearest clips, as a multiple of "
        "the median. Often the face of another person, silence, or a damaged file."
    )
    columns = ["Clip", "#Distance", "Label", "Words"]
    return [Heading("Outliers"), Paragraph(sentence), *_folded("Outliers", columns, rows, len(outliers))]


def _folded(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str | Cell]], total: int) -> list[Block]:
    """Show the first rows, and the rest folded."""
    blocks: list[Block] = [Table(caption, columns, rows[:SHOWN])]
    if len(rows) > SHOWN:
        more = Table(f"{caption}, continued", columns, rows[SHOWN:], hidden=total - len(rows))
        blocks.append(Collapsible(f"{count(total - SHOWN)} more", [more]))
    return blocks


def confusion_section(evaluation: Evaluation, cards: Cards) -> Section:
    """Show the confusion matrix of true and predicted labels; each cell links to its clips."""
    title = "Confusions"
    confusion = evaluation.confusion
    if confusion is None or not any(map(sum, confusion.counts)):
        why = "No confusion matrix: no evaluated clip has a true label."
        return Section("confusion", title, [Notice(why)])
    behind: dict[tuple[str, str], list[str]] = defaultdict(list)
    for card in cards.cards:
        if card.truth and card.predicted:
            behind[card.truth, card.predicted].append(str(card.clip.clip_id))
    rows: list[list[str | Cell]] = []
    lists: list[Block] = []
    for true_index, (true, counts) in enumerate(zip(confusion.labels, confusion.counts, strict=True)):
        total = sum(counts)
        cells: list[str | Cell] = []
        for index, (predicted, number) in enumerate(zip(confusion.labels, counts, strict=True)):
            text: str = count(number)
            if number and behind[true, predicted]:
                anchor = f"k-{true_index}-{index}"
                text = Markup('<a href="#{}">{}</a>').format(anchor, text)
                lists.append(_behind(anchor, true, predicted, number, behind[true, predicted], cards))
            cells.append(Cell(text, number / total if total else 0.0, "count" if true == predicted else "change"))
        recall = percent(counts[true_index] / total) if total else UNKNOWN
        rows.append([name_text(true), *cells, count(total), recall])
    truth = truth_name(evaluation)
    columns = [truth, *(label_column(label) for label in confusion.labels), "#Clips", "#Recall"]
    caption = (
        f"Confusion matrix ({evaluation_basis(evaluation)}). A darker tint means a larger share of the row; a number "
        "opens its clips."
    )
    table = Table(caption, columns, rows, spread="Predicted label", spread_over=len(confusion.labels))
    sentence = Paragraph(_most_frequent_error(confusion, truth.lower()))
    behind_cells = [Collapsible("Clips behind each number", lists)] if lists else []
    return Section("confusion", title, [sentence, table, *behind_cells])


def _behind(anchor: str, true: str, predicted: str, number: int, clips: Sequence[str], cards: Cards) -> Collapsible:
    relation = Markup("predicted right")
    if true != predicted:
        relation = Markup("predicted as {}").format(name_text(predicted))
    shown = clips[:_CELL_CLIPS]
    links = Markup(", ").join(cards.link(clip_id) for clip_id in shown)
    rest = f" and {count(number - len(shown))} more" if number > len(shown) else ""
    text = Markup("{}{}.").format(links, rest)
    summary = Markup("{}: {} {}").format(count(number, "clip"), name_text(true), relation)
    return Collapsible(summary, [Paragraph(text)], anchor=anchor)


def _most_frequent_error(confusion: Confusion, truth: str) -> str:
    errors = [
        (number, true, predicted, sum(counts))
        for true, counts in zip(confusion.labels, confusion.counts, strict=True)
        for predicted, number in zip(confusion.labels, counts, strict=True)
        if predicted != true and number
    ]
    if not errors:
        return f"All predictions equal the {truth}."
    wrong, total = sum(row[0] for row in errors), sum(map(sum, confusion.counts))
    number, true, predicted, n_true = max(errors, key=lambda row: row[0])
    sentence = "{} of {} differ from the {}. The most frequent error is {} predicted as {}: {} of {} ({})."
    return Markup(sentence).format(
        count(wrong),
        count(total, "prediction"),
        truth,
        name_text(true),
        name_text(predicted),
        count(number),
        count(n_true),
        percent(number / n_true),
    )
