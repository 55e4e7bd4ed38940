"""Report the label refinement: decisions, scores, reliability of the sources, and each change with its votes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES, Clip, marked_transcript
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.labels.refine import Decision, LabelAction, Vote
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
    ordered_labels,
    percent,
    shorten,
)
from ecmf_pipeline.report.charts import Bar, Colour, bars
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import Evaluation, LabelAccuracy, ReportInput
from ecmf_pipeline.report.scores import labels_conclusion
from ecmf_pipeline.report.zero_shot import UNVERIFIED, next_step

DECISIONS: dict[LabelAction, tuple[Colour, str, str]] = {
    LabelAction.KEEP: ("blue", "kept", "the given label is kept"),
    LabelAction.DOWN_WEIGHT: ("yellow", "down-weighted", "the given label is kept with a lower weight"),
    LabelAction.RELABEL: ("vermillion", "relabelled", "another label replaces the given one"),
    LabelAction.DROP: ("grey", "dropped", "the clip is excluded from training"),
    LabelAction.PSEUDO: ("green", "pseudo-labelled", "a clip without a label gets one"),
    LabelAction.REVIEW: ("purple", "for review", "a person should check the clip"),
    LabelAction.LEAVE: ("sky", "unlabelled", "a clip without a label stays unlabelled"),
}
CHANGES = (LabelAction.RELABEL, LabelAction.DROP, LabelAction.REVIEW, LabelAction.DOWN_WEIGHT, LabelAction.PSEUDO)
ABSENT = "no label"
_REASON_LENGTH = 400
"""Maximum number of characters of a reason; reasons are shorter unless labels are very long."""
_HIGH_CORRELATION = 0.3
"""Error correlations above this value are counted in the text."""


def refinement_section(report: ReportInput, evaluation: Evaluation, config: ReportConfig) -> Section:
    """Show decisions, changed labels and votes."""
    title = "Label refinement"
    conclusion = labels_conclusion(evaluation, refined=bool(report.refined))
    if not report.refined:
        return Section("refinement", title, [Notice(conclusion.sentence)])
    if evaluation.zero_shot is not None:
        return Section(
            "refinement",
            f"Labels: {UNVERIFIED}",
            [Paragraph(next_step(evaluation.zero_shot)), *_sources(report), *_changes(report, config)],
        )
    blocks: list[Block] = [Paragraph(conclusion.sentence), *_accuracy(evaluation)]
    blocks += [*evidence_blocks(report.evaluate), *_decisions(report)]
    blocks += [*_matrix(report), *_sources(report), *vote_source_blocks(report.vote_sources)]
    blocks += _changes(report, config)
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


def _decisions(report: ReportInput) -> list[Block]:
    tally = Counter(row.decision for row in report.refined)
    groups = []
    for name, (colour, description, _) in DECISIONS.items():
        share = percent(tally[name] / len(report.refined))
        groups.append((description, [Bar(float(tally[name]), f"{count(tally[name])} ({share})", colour)]))
    had_label = sum(bool(row.given_label) for row in report.refined)
    n_for_review = sum(row.decision is LabelAction.REVIEW and bool(row.given_label) for row in report.refined)
    sentence = (
        f"Of {count(had_label, 'given label')}, {count(tally[LabelAction.KEEP])} were kept, "
        f"{count(tally[LabelAction.RELABEL])} replaced, {count(tally[LabelAction.DROP])} dropped"
        + (f", {count(n_for_review)} kept with a low weight and listed for review." if n_for_review else ".")
    )
    meanings = "; ".join(f"{description}: {meaning}" for _, description, meaning in DECISIONS.values())
    rows = [[description, count(tally[name])] for name, (_, description, _) in DECISIONS.items()]
    numbers = Table("Clips by decision", ["Decision", "#Clips"], rows)
    drawing = bars(groups, alt=f"Decisions of the refinement. {sentence}")
    return [Heading("Decisions"), Paragraph(sentence), Figure(drawing, f"Clips by decision ({meanings}).", numbers)]


def _matrix(report: ReportInput) -> list[Block]:
    transitions = Counter(
        (row.given_label or ABSENT, _new_label(row)) for row in report.refined if row.decision is not LabelAction.LEAVE
    )
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
        rows.append([corpus_text(start, 40), *cells])
    changed_given = {pair: number for pair, number in changes.items() if pair[0] != ABSENT}
    if changed_given:
        start, end = max(changed_given, key=lambda pair: (changed_given[pair], pair))
        sentence = (
            f"{count(sum(changed_given.values()), 'given label')} changed. The most frequent change is "
            f"{shorten(start, 40)} to {shorten(end, 40)} ({count(changed_given[start, end], 'clip')})."
        )
    else:
        sentence = "No given label changed."
    caption = "Label changes: given label (rows) and label after refinement (columns). Changes are tinted."
    columns = ["Given label", *(f"#{shorten(end, 40)}" for end in ends)]
    return [
        Heading("Label changes"),
        Paragraph(sentence),
        Table(caption, columns, rows, spread="After refinement", spread_over=len(ends)),
    ]


def _sources(report: ReportInput) -> list[Block]:
    gold: dict[str, str] = {clip.clip_id: clip.gold_label for clip in report.clips if clip.gold_label}
    tallies: dict[str, Counter[str]] = defaultdict(Counter)
    for row in report.refined:
        truth = gold.get(row.clip_id, "")
        for vote in row.votes:
            counts = tallies[vote.source]
            if not vote.label:
                counts["abstained"] += 1
                continue
            counts["voted"] += 1
            for name, label in (("given", row.given_label), ("refined", row.refined_label), ("gold", truth)):
                if label:
                    counts[name] += 1
                    counts[f"{name} same"] += label == vote.label
    if not tallies:
        return [Notice("The votes of the sources are not available.")]
    rows = [
        [
            corpus_text(source, 60),
            count(counts["voted"]),
            count(counts["abstained"]),
            *(
                percent(counts[f"{name} same"] / counts[name]) if counts[name] else UNKNOWN
                for name in ("given", "refined", "gold")
            ),
        ]
        for source, counts in tallies.items()
    ]
    columns = [
        "Source", "#Votes", "#Abstentions", "#Agrees with given", "#Agrees with refined", "#Accuracy on gold labels",
    ]  # fmt: skip
    caption = "Votes and abstentions of each source, and agreement with given, refined and gold labels"
    return [Heading("Votes by source"), Table(caption, columns, rows)]


def _changes(report: ReportInput, config: ReportConfig) -> list[Block]:
    by_decision: dict[LabelAction, list[Decision]] = defaultdict(list)
    for row in report.refined:
        by_decision[row.decision].append(row)
    clips: dict[str, Clip] = {clip.clip_id: clip for clip in report.clips}
    blocks: list[Block] = []
    for name in CHANGES:
        rows = sorted(by_decision[name], key=lambda row: (-row.confidence, row.clip_id))
        shown = rows[: config.change_rows]
        if shown:
            description = DECISIONS[name][1]
            table = Table(
                f"Clips {description}: the label and its probability, the highest first",
                ["Clip and transcript", "Label", "Decision", "Votes"],
                [_change(row, clips.get(row.clip_id), config) for row in shown],
                hidden=len(rows) - len(shown),
            )
            blocks.append(Collapsible(f"{count(len(rows), 'clip')} {description}", [table], opened=not blocks))
    return [Heading("Changed labels and their votes"), *blocks] if blocks else []


def _change(row: Decision, clip: Clip | None, config: ReportConfig) -> list[str | Cell]:
    transcript = marked_transcript(clip) if clip else ""
    gold = clip.gold_label if clip else ""
    label = Markup("{} \N{RIGHTWARDS ARROW} <b>{}</b>").format(
        corpus_text(row.given_label or ABSENT, 40), corpus_text(_new_label(row), 40)
    )
    if gold:
        label += Markup('<span class="under">gold: {}{}</span>').format(corpus_text(gold, 40), _outcome(row, gold))
    details = [UNVERIFIED if row.basis is Basis.ZERO_SHOT else f"weight {row.weight:.2f}"]
    if voting := [vote for vote in row.votes if vote.label]:
        agreeing = sum(vote.label == row.label for vote in voting)
        details.append(f"{agreeing} of {count(len(voting), 'source')} for {shorten(row.label, 40)}")
    return [
        Markup('{}<span class="under">{}</span>').format(
            corpus_text(row.clip_id, MAX_CLIP_ID_BYTES),
            corpus_text(transcript, config.text_length) if transcript.strip() else "no transcript",
        ),
        label,
        Markup('{} {}<span class="under">{}</span><span class="under">{}</span>').format(
            corpus_text(row.label, 40),
            f"{row.confidence:.2f}",
            corpus_text(", ".join(details), 100),
            corpus_text(row.reason, max(config.text_length, _REASON_LENGTH)),
        ),
        _votes(row.votes),
    ]


def _votes(votes: Sequence[Vote]) -> Markup:
    """Format the votes by label, the most frequent label first and abstentions last."""
    by_label: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_label[vote.label].append(vote)
    ranked = sorted(by_label, key=lambda label: (not label, -len(by_label[label]), label))
    lines = []
    for label in ranked:
        ballots = sorted(by_label[label], key=lambda vote: (-(vote.probability or 0.0), vote.source))
        names = [
            shorten(vote.source, 40) + ("" if vote.probability is None or not label else f" {vote.probability:.2f}")
            for vote in ballots
        ]
        heading = Markup("<b>{}</b>").format(corpus_text(label, 40)) if label else "abstain"
        lines.append(Markup('<span class="vote">{}: {}</span>').format(heading, ", ".join(names)))
    return Markup("").join(lines) or Markup(UNKNOWN)


def _new_label(row: Decision) -> str:
    if row.decision is LabelAction.DROP:
        return "dropped"
    if row.decision is LabelAction.REVIEW and not row.refined_label:
        return "for review"
    return row.refined_label or ABSENT


def _outcome(row: Decision, gold: str) -> str:
    before, after = row.given_label == gold, row.refined_label == gold
    if row.decision is LabelAction.DROP:
        return " (dropped a right label)" if before else " (dropped a wrong label)"
    if not row.refined_label:
        return ""
    if not row.given_label:
        return " (right)" if after else " (wrong)"
    if before == after:
        return " (still right)" if after else " (still wrong)"
    return " (corrected)" if after else " (broken)"


def evidence_blocks(evaluate: Mapping[str, Any] | None) -> list[Block]:
    """Show what `evaluate` measured about the refinement; empty without these metrics."""
    metrics = evaluate or {}
    return [
        *_controls(metrics.get("controls")),
        *_calibration(metrics.get("label_model")),
        *_methods(metrics.get("label_methods")),
    ]


def _controls(controls: Mapping[str, Any] | None) -> list[Block]:
    if not controls:
        return []
    blocks: list[Block] = [Heading("Effect of refined labels on training")]
    fusion = controls.get("fusion")
    if fusion:
        blocks += _compare_sets(fusion, "Fusion model", "For the fusion model, ")
    elif reason := controls.get("no_fusion"):
        blocks.append(Notice(f"{reason[:1].upper()}{reason[1:]}."))
    return [*blocks, *_compare_sets(controls, "Linear classifier", "For a linear classifier, ")]


def _compare_sets(controls: Mapping[str, Any], model: str, prefix: str) -> list[Block]:
    rows = [
        [
            corpus_text(name, 60),
            f"{scores['weighted_f1']:.4f}",
            _format_difference(scores["over_given"]),
            _format_difference(scores["over_rebalanced"]),
        ]
        for name, scores in sorted(controls["sets"].items(), key=lambda item: -item[1]["weighted_f1"])
    ]
    columns = [
        "Training set", "#Weighted F1", "#Difference to given labels (95% interval)",
        "#Difference to rebalanced given labels (95% interval)",
    ]  # fmt: skip
    caption = f"{model} on each training set: out-of-fold predictions, evaluated on {controls['judged_by']} labels"
    return [Paragraph(f"{prefix}{controls['sentence']}."), Table(caption, columns, rows)]


def _methods(metrics: Mapping[str, Any] | None) -> list[Block]:
    if not metrics or not metrics["clips"]:
        return []
    rows = [
        [
            corpus_text(name, 60),
            "yes" if scores["learns"] else "no",
            percent(scores["accuracy"], 1),
            f"{scores['weighted_f1']:.4f}",
            f"{scores['ece']:.3f}",
            _format_difference(scores["label_model_over"]),
        ]
        for name, scores in sorted(metrics["methods"].items(), key=lambda item: -item[1]["accuracy"])
    ]
    columns = ["Method", "Learns from known labels", "#Accuracy", "#Weighted F1", "#Calibration error"]
    columns.append("#Label model minus this method (weighted F1, 95% interval)")
    best = max(metrics["methods"], key=lambda name: metrics["methods"][name]["accuracy"])
    sentence = (
        "All methods combine the same votes and are evaluated on "
        f"{count(metrics['clips'], 'label')} known to be right. Methods that learn from such labels are evaluated out "
        f"of fold. Highest accuracy: {best}."
    )
    caption = "Label model compared with simpler and published methods"
    blocks: list[Block] = [Heading("Methods of combining votes"), Paragraph(sentence)]
    blocks.append(Table(caption, columns, rows))
    if metrics["left_out"]:
        why = "; ".join(f"{name} ({reason})" for name, reason in metrics["left_out"].items())
        blocks.append(Paragraph(f"Not compared: {why}."))
    return blocks


def _calibration(metrics: Mapping[str, Any] | None) -> list[Block]:
    if not metrics or not metrics["clips"]:
        return []
    sentence = (
        f"Over {count(metrics['clips'], 'clip')} with a gold label, the accuracy of the label model is "
        f"{percent(metrics['accuracy'], 1)} and its expected calibration error {metrics['ece']:.3f}."
    )
    curve = [[f"{p['confidence']:.2f}", percent(p["accuracy"], 1), count(p["clips"])] for p in metrics["curve"]]
    most_confident = [[percent(point["share"]), percent(point["accuracy"], 1)] for point in metrics["coverage"]]
    without = [
        [corpus_text(name, 60), percent(scores["accuracy"], 1), f"{scores['ece']:.3f}"]
        for name, scores in metrics["without"].items()
    ]
    blocks: list[Block] = [
        Heading("Calibration of the label model"),
        Paragraph(sentence),
        Table("Accuracy by predicted probability", ["#Probability", "#Accuracy", "#Clips"], curve),
        Table("Accuracy of the most confident clips", ["#Share of clips", "#Accuracy"], most_confident),
    ]
    if without:
        columns = ["Family left out", "#Accuracy", "#Calibration error"]
        blocks.append(Table("Label model without one family of sources", columns, without))
    return blocks


def _format_difference(difference: Mapping[str, float]) -> str:
    return f"{difference['difference']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"


def vote_source_blocks(metrics: Mapping[str, Any] | None) -> list[Block]:
    """Show what `evaluate` measured about the sources; empty without these metrics."""
    if not metrics or not metrics["sources"]:
        return []
    sources: Mapping[str, Mapping[str, Any]] = metrics["sources"]
    truth = (
        "labels known to be right"
        if metrics["judged_by"] == "gold"
        else f"the combined votes, because only {metrics['known']} of {metrics['needed']} needed labels are known to "
        "be right; this overestimates sources with correlated errors"
    )
    rows = [
        [
            corpus_text(name, 60),
            percent(source["coverage"], 1),
            count(source["votes"]),
            _format_reliability(source),
            *_most_frequent_error(source, metrics),
        ]
        for name, source in sorted(sources.items(), key=lambda item: -(item[1]["reliability"] or 0.0))
    ]
    columns = [
        "Source", "#Coverage", "#Votes compared", "#Accuracy (95% interval)", "Most frequent error",
        "#Rate of this error (95% interval)",
    ]  # fmt: skip
    return [
        Heading("Reliability of the sources"),
        Paragraph(f"Evaluated on {truth}. {_correlation_summary(sources)}"),
        Table("Coverage, accuracy and most frequent error of each source", columns, rows),
        _correlations(sources),
        Collapsible(
            "Confusion matrix of each source",
            [_confusion(name, source, metrics["labels"]) for name, source in sources.items() if source["votes"]],
        ),
    ]


def _format_reliability(source: Mapping[str, Any]) -> str:
    if source["reliability"] is None:
        return UNKNOWN
    return f"{percent(source['reliability'], 1)} ({percent(source['low'])} to {percent(source['high'])})"


def _most_frequent_error(source: Mapping[str, Any], metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Format the most frequent error of a source and its rate."""
    labels: Sequence[str] = metrics["labels"]
    pairs = [(t, v) for t in range(len(labels)) for v in range(len(labels)) if t != v]
    if not source["votes"] or not pairs:
        return UNKNOWN, UNKNOWN
    true, voted = max(pairs, key=lambda pair: source["confusion"][pair[0]][pair[1]])
    return f"{shorten(labels[true], 30)} voted as {shorten(labels[voted], 30)}", _format_share(source, true, voted)


def _format_share(source: Mapping[str, Any], true: int, voted: int) -> str:
    share, low, high = (source[key][true][voted] for key in ("confusion", "confusion_low", "confusion_high"))
    return f"{percent(share)} ({percent(low)} to {percent(high)})"


def _confusion(name: str, source: Mapping[str, Any], labels: Sequence[str]) -> Table:
    rows: list[list[str | Cell]] = [
        [
            corpus_text(true, 40),
            *(
                Cell(_format_share(source, t, v), source["confusion"][t][v], "count" if t == v else "change")
                for v in range(len(labels))
            ),
        ]
        for t, true in enumerate(labels)
    ]
    columns = ["True label", *(f"#{shorten(label, 40)}" for label in labels)]
    caption = (
        f"{shorten(name, 60)}: share of votes by true label with 95% intervals, shrunk towards equal shares by one "
        "vote per row"
    )
    return Table(caption, columns, rows, spread="Voted label", spread_over=len(labels))


def _correlations(sources: Mapping[str, Mapping[str, Any]]) -> Table:
    names = [name for name, source in sources.items() if source["votes"]]
    rows: list[list[str | Cell]] = [
        [
            corpus_text(f"{number}. {name}", 60),
            *("" if other == name else _correlation(sources[name]["error_correlation"].get(other)) for other in names),
        ]
        for number, name in enumerate(names, start=1)
    ]
    columns = ["Source", *(f"#{number}." for number in range(1, len(names) + 1))]
    caption = "Correlation of the sources' errors: 1 for errors on the same clips, 0 for independent errors"
    return Table(caption, columns, rows, spread="Correlation with source", spread_over=len(names))


def _correlation(value: float | None) -> str | Cell:
    if value is None:
        return UNKNOWN
    return Cell(f"{value:.2f}".replace("-", "\N{MINUS SIGN}"), min(max(value, 0.0), 1.0), "change")


def _correlation_summary(sources: Mapping[str, Mapping[str, Any]]) -> str:
    pairs = {
        (min(name, other), max(name, other)): value
        for name, source in sources.items()
        for other, value in source["error_correlation"].items()
        if value is not None
    }
    if not pairs:
        return "The correlations of their errors are unknown."
    (first, second), most = max(pairs.items(), key=lambda item: item[1])
    n_above = sum(value > _HIGH_CORRELATION for value in pairs.values())
    return (
        f"The errors of {shorten(first, 60)} and {shorten(second, 60)} have the highest correlation ({most:.2f}). "
        f"{count(n_above)} of {count(len(pairs), 'pair')} of sources correlate above {_HIGH_CORRELATION}; such sources "
        "are worth less than independent ones."
    )
