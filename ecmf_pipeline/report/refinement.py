"""Report what refinement did with the labels, and the evidence: scores, reliability of the sources, each change."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES, Clip
from ecmf_pipeline.labels.refine import Decision, LabelAction, Vote
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Bar,
    Block,
    Cell,
    Colour,
    Figure,
    Folded,
    Heading,
    Notice,
    Paragraph,
    Section,
    Table,
    bars,
    count,
    foreign,
    in_order,
    percent,
    shortened,
)
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import Evaluation, LabelAccuracy, ReportInput
from ecmf_pipeline.report.scores import labels_verdict

DECISIONS: dict[LabelAction, tuple[Colour, str, str]] = {
    LabelAction.KEEP: ("blue", "kept", "the given label stays"),
    LabelAction.DOWN_WEIGHT: ("yellow", "down-weighted", "the given label stays, but counts less"),
    LabelAction.RELABEL: ("vermillion", "relabelled", "the sources' label replaces the given one"),
    LabelAction.DROP: ("grey", "dropped", "the clip is left out of training"),
    LabelAction.PSEUDO: ("green", "pseudo-labelled", "a clip without a label gets one"),
    LabelAction.REVIEW: ("purple", "for review", "a person should look at it"),
    LabelAction.LEAVE: ("sky", "left alone", "a clip without a label stays without"),
}
CHANGES = (LabelAction.RELABEL, LabelAction.DROP, LabelAction.REVIEW, LabelAction.DOWN_WEIGHT, LabelAction.PSEUDO)
ABSENT = "no label"
_ERR_TOGETHER = 0.3
"""Sources whose errors correlate more than this are named."""


def refinement_section(report: ReportInput, evaluation: Evaluation, config: ReportConfig) -> Section:
    """Decisions, changes and votes."""
    title = "Label refinement"
    verdict = labels_verdict(evaluation, refined=bool(report.refined))
    if not report.refined:
        return Section("refinement", title, [Notice(verdict.sentence)])
    blocks: list[Block] = [Paragraph(verdict.sentence), *_accuracy(evaluation)]
    blocks += [*proof_blocks(report.evaluate), *_decisions(report)]
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
        [name, count(part.clips), percent(part.accuracy, 1) if part.accuracy is not None else "cannot be known"]
        for name, part in sets.items()
        if part is not None
    ]
    return [Table("Accuracy of the training labels, judged by gold labels", ["Labels", "#Clips", "#Right"], rows)]


def _decisions(report: ReportInput) -> list[Block]:
    tally = Counter(row.decision for row in report.refined)
    groups = []
    for name, (colour, words, _) in DECISIONS.items():
        share = percent(tally[name] / len(report.refined))
        groups.append((words, [Bar(float(tally[name]), f"{count(tally[name])} ({share})", colour)]))
    had_label = sum(bool(row.given_label) for row in report.refined)
    doubted = sum(row.decision is LabelAction.REVIEW and bool(row.given_label) for row in report.refined)
    sentence = (
        f"Of {count(had_label, 'given label')}, {count(tally[LabelAction.KEEP])} were kept, "
        f"{count(tally[LabelAction.RELABEL])} replaced, {count(tally[LabelAction.DROP])} dropped"
        + (f", {count(doubted)} kept with a low weight and listed for review." if doubted else ".")
    )
    meanings = "; ".join(f"{words}: {meaning}" for _, words, meaning in DECISIONS.values())
    rows = [[words, count(tally[name])] for name, (_, words, _) in DECISIONS.items()]
    numbers = Table("Clips by decision", ["Decision", "#Clips"], rows)
    drawing = bars(groups, alt=f"Decisions of the refinement. {sentence}")
    return [Heading("Decisions"), Paragraph(sentence), Figure(drawing, f"Clips by decision ({meanings}).", numbers)]


def _matrix(report: ReportInput) -> list[Block]:
    flows = Counter(
        (row.given_label or ABSENT, _after(row)) for row in report.refined if row.decision is not LabelAction.LEAVE
    )
    special = {ABSENT, "dropped", "for review"}
    seen = {label for pair in flows for label in pair} - special
    labels = in_order(report.labels, seen)
    starts = [*labels, *([ABSENT] if any(start == ABSENT for start, _ in flows) else [])]
    ends = [*labels, *(end for end in ("dropped", "for review", ABSENT) if any(to == end for _, to in flows))]
    moved = {pair: number for pair, number in flows.items() if pair[0] != pair[1]}
    most = max(moved.values(), default=1)
    rows: list[list[str | Cell]] = []
    for start in starts:
        cells = [
            Cell(count(number)) if start == end else Cell(count(number) if number else "", number / most, "change")
            for end, number in ((end, flows[start, end]) for end in ends)
        ]
        rows.append([foreign(start, 40), *cells])
    changed = {pair: number for pair, number in moved.items() if pair[0] != ABSENT}
    if changed:
        start, end = max(changed, key=lambda pair: (changed[pair], pair))
        sentence = (
            f"{count(sum(changed.values()), 'given label')} did not stay. The most frequent change is "
            f"{shortened(start, 40)} to {shortened(end, 40)} ({count(changed[start, end], 'clip')})."
        )
    else:
        sentence = "Every given label stayed."
    caption = "Label changes: each row is a given label, each column what became of it. Only changes are tinted."
    columns = ["Given label", *(f"#{shortened(end, 40)}" for end in ends)]
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
            tally = tallies[vote.source]
            if not vote.label:
                tally["abstained"] += 1
                continue
            tally["voted"] += 1
            for name, label in (("given", row.given_label), ("refined", row.refined_label), ("gold", truth)):
                if label:
                    tally[name] += 1
                    tally[f"{name} same"] += label == vote.label
    if not tallies:
        return [Notice("The sources' votes were not handed to the report.")]
    rows = [
        [
            foreign(source, 60),
            count(tally["voted"]),
            count(tally["abstained"]),
            *(
                percent(tally[f"{name} same"] / tally[name]) if tally[name] else UNKNOWN
                for name in ("given", "refined", "gold")
            ),
        ]
        for source, tally in tallies.items()
    ]
    columns = ["Source", "#Votes", "#Abstained", "#Agrees with given", "#Agrees with refined", "#Right (gold known)"]
    return [Heading("Sources of votes"), Table("How often each source voted, and with whom it agrees", columns, rows)]


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
            words = DECISIONS[name][1]
            table = Table(
                f"Clips {words}, the most confident first",
                ["Clip and words", "Label", "Decision", "Votes"],
                [_change(row, clips.get(row.clip_id), config) for row in shown],
                hidden=len(rows) - len(shown),
            )
            blocks.append(Folded(f"{count(len(rows), 'clip')} {words}", [table], opened=not blocks))
    return [Heading("Each change and its evidence"), *blocks] if blocks else []


def _change(row: Decision, clip: Clip | None, config: ReportConfig) -> list[str | Cell]:
    words = clip.transcript if clip else ""
    gold = clip.gold_label if clip else ""
    label = Markup("{} \N{RIGHTWARDS ARROW} <b>{}</b>").format(
        foreign(row.given_label or ABSENT, 40), foreign(_after(row), 40)
    )
    if gold:
        label += Markup('<span class="under">gold: {}{}</span>').format(foreign(gold, 40), _outcome(row, gold))
    details = [f"weight {row.weight:.2f}"]
    if not math.isnan(row.agreement):
        details.append(f"{percent(row.agreement)} of sources agree")
    return [
        Markup('{}<span class="under">{}</span>').format(
            foreign(row.clip_id, MAX_CLIP_ID_BYTES), foreign(words, config.text_length) if words.strip() else "no words"
        ),
        label,
        Markup('confidence {}<span class="under">{}</span><span class="under">{}</span>').format(
            f"{row.confidence:.2f}",
            ", ".join(details),
            foreign(row.reason, config.text_length),
        ),
        _votes(row.votes),
    ]


def _votes(votes: Sequence[Vote]) -> Markup:
    """The votes by label, the label with the most votes first; abstentions last."""
    by_label: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_label[vote.label].append(vote)
    ranked = sorted(by_label, key=lambda label: (not label, -len(by_label[label]), label))
    lines = []
    for label in ranked:
        ballots = sorted(by_label[label], key=lambda vote: (-(vote.probability or 0.0), vote.source))
        names = [
            shortened(vote.source, 40) + ("" if vote.probability is None or not label else f" {vote.probability:.2f}")
            for vote in ballots
        ]
        heading = Markup("<b>{}</b>").format(foreign(label, 40)) if label else "abstain"
        lines.append(Markup('<span class="vote">{}: {}</span>').format(heading, ", ".join(names)))
    return Markup("").join(lines) or Markup(UNKNOWN)


def _after(row: Decision) -> str:
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


def vote_source_blocks(found: Mapping[str, Any] | None) -> list[Block]:
    """What `evaluate` found out about the sources; nothing where it did not look."""
    if not found or not found["sources"]:
        return []
    accounts: Mapping[str, Mapping[str, Any]] = found["sources"]
    truth = (
        "labels that are known to be right"
        if found["judged_by"] == "gold"
        else "what all sources together say, since too few labels are known to be right; "
        "that flatters those that err together"
    )
    rows = [
        [foreign(name, 60), percent(one["coverage"], 1), count(one["votes"]), _with_interval(one), *_worst(one, found)]
        for name, one in sorted(accounts.items(), key=lambda item: -(item[1]["reliability"] or 0.0))
    ]
    columns = ["Source", "#Votes on", "#Judged", "#Right (95%)", "Most frequent mistake", "#So often (95%)"]
    return [
        Heading("How far each source can be trusted"),
        Paragraph(f"Judged by {truth}. {_together(accounts)}"),
        Table("Reliability of the sources", columns, rows),
        _correlations(accounts),
        Folded(
            "What each source takes for what",
            [_confusion(name, one, found["labels"]) for name, one in accounts.items() if one["votes"]],
        ),
    ]


def _with_interval(one: Mapping[str, Any]) -> str:
    if one["reliability"] is None:
        return UNKNOWN
    return f"{percent(one['reliability'], 1)} ({percent(one['low'])} to {percent(one['high'])})"


def _worst(one: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, str]:
    """The label that is most often taken for a certain other one, and how often that happens."""
    labels: Sequence[str] = found["labels"]
    pairs = [(t, v) for t in range(len(labels)) for v in range(len(labels)) if t != v]
    if not one["votes"] or not pairs:
        return UNKNOWN, UNKNOWN
    true, voted = max(pairs, key=lambda pair: one["confusion"][pair[0]][pair[1]])
    return f"{shortened(labels[true], 30)} taken for {shortened(labels[voted], 30)}", _cell(one, true, voted)


def _cell(one: Mapping[str, Any], true: int, voted: int) -> str:
    share, low, high = (one[key][true][voted] for key in ("confusion", "confusion_low", "confusion_high"))
    return f"{percent(share)} ({percent(low)} to {percent(high)})"


def _confusion(name: str, one: Mapping[str, Any], labels: Sequence[str]) -> Table:
    rows: list[list[str | Cell]] = [
        [
            foreign(true, 40),
            *(
                Cell(_cell(one, t, v), one["confusion"][t][v], "count" if t == v else "change")
                for v in range(len(labels))
            ),
        ]
        for t, true in enumerate(labels)
    ]
    columns = ["True label", *(f"#{shortened(label, 40)}" for label in labels)]
    caption = (
        f"{shortened(name, 60)}: share of its votes by true label, shrunk towards equal shares by one vote a row (95%)"
    )
    return Table(caption, columns, rows, spread="What it votes for", spread_over=len(labels))


def _correlations(accounts: Mapping[str, Mapping[str, Any]]) -> Table:
    names = [name for name, one in accounts.items() if one["votes"]]
    rows: list[list[str | Cell]] = [
        [
            foreign(f"{number}. {name}", 60),
            *("" if other == name else _correlation(accounts[name]["error_correlation"].get(other)) for other in names),
        ]
        for number, name in enumerate(names, start=1)
    ]
    columns = ["Source", *(f"#{number}." for number in range(1, len(names) + 1))]
    caption = "Correlation of the sources' errors: 1 they err on the same clips, 0 independently"
    return Table(caption, columns, rows, spread="Errors together with", spread_over=len(names))


def _correlation(value: float | None) -> str | Cell:
    if value is None:
        return UNKNOWN
    return Cell(f"{value:.2f}".replace("-", "\N{MINUS SIGN}"), min(max(value, 0.0), 1.0), "change")


def _together(accounts: Mapping[str, Mapping[str, Any]]) -> str:
    pairs = {
        (min(name, other), max(name, other)): value
        for name, one in accounts.items()
        for other, value in one["error_correlation"].items()
        if value is not None
    }
    if not pairs:
        return "Which of them err together cannot be known."
    (first, second), most = max(pairs.items(), key=lambda item: item[1])
    many = sum(value > _ERR_TOGETHER for value in pairs.values())
    return (
        f"{shortened(first, 60)} and {shortened(second, 60)} err together most (correlation {most:.2f}); "
        f"{count(many)} of {count(len(pairs), 'pair')} of sources correlate above {_ERR_TOGETHER}: they count for less "
        "than their number."
    )
