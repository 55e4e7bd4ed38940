"""What refinement did with the labels, and the evidence for each change."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES, Clip
from ecmf_pipeline.labels.refine import Decision, Verdict, Vote
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Cell,
    Figure,
    Folded,
    Heading,
    Notice,
    Paragraph,
    Section,
    Table,
    count,
    foreign,
    percent,
    shortened,
)
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import Evaluation, LabelAccuracy, ReportInput
from ecmf_pipeline.report.plots import Bar, Colour, bars
from ecmf_pipeline.report.sections.corpus import in_order
from ecmf_pipeline.report.sections.evidence import proof_blocks, vote_source_blocks
from ecmf_pipeline.report.verdicts import labels_verdict

DECISIONS: dict[Verdict, tuple[Colour, str, str]] = {
    Verdict.KEEP: ("blue", "kept", "the given label stays"),
    Verdict.DOWN_WEIGHT: ("yellow", "down-weighted", "the given label stays, but counts less"),
    Verdict.RELABEL: ("vermillion", "relabelled", "the sources' label replaces the given one"),
    Verdict.DROP: ("grey", "dropped", "the clip is left out of training"),
    Verdict.PSEUDO: ("green", "pseudo-labelled", "a clip without a label gets one"),
    Verdict.REVIEW: ("purple", "for review", "a person should look at it"),
    Verdict.LEAVE: ("sky", "left alone", "a clip without a label stays without"),
}
CHANGES = (Verdict.RELABEL, Verdict.DROP, Verdict.REVIEW, Verdict.DOWN_WEIGHT, Verdict.PSEUDO)
ABSENT = "no label"


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
    doubted = sum(row.decision is Verdict.REVIEW and bool(row.given_label) for row in report.refined)
    sentence = (
        f"Of {count(had_label, 'given label')}, {count(tally[Verdict.KEEP])} were kept, "
        f"{count(tally[Verdict.RELABEL])} replaced, {count(tally[Verdict.DROP])} dropped"
        + (f", {count(doubted)} kept with a low weight and listed for review." if doubted else ".")
    )
    meanings = "; ".join(f"{words}: {meaning}" for _, words, meaning in DECISIONS.values())
    rows = [[words, count(tally[name])] for name, (_, words, _) in DECISIONS.items()]
    numbers = Table("Clips by decision", ["Decision", "#Clips"], rows)
    drawing = bars(groups, alt=f"Decisions of the refinement. {sentence}")
    return [Heading("Decisions"), Paragraph(sentence), Figure(drawing, f"Clips by decision ({meanings}).", numbers)]


def _matrix(report: ReportInput) -> list[Block]:
    flows = Counter(
        (row.given_label or ABSENT, _after(row)) for row in report.refined if row.decision is not Verdict.LEAVE
    )
    special = {ABSENT, "dropped", "for review"}
    seen = {label for pair in flows for label in pair} - special
    labels = in_order(report.labels, seen)
    starts = [*labels, *([ABSENT] if any(start == ABSENT for start, _ in flows) else [])]
    ends = [*labels, *(end for end in ("dropped", "for review", ABSENT) if any(to == end for _, to in flows))]
    moved = {pair: number for pair, number in flows.items() if pair[0] != pair[1]}
    most = max(moved.values(), default=0)
    rows: list[list[str | Cell]] = []
    for start in starts:
        cells = [
            Cell(count(flows[start, end]))
            if start == end
            else Cell(_or_blank(flows[start, end]), _share(moved, (start, end), most), "change")
            for end in ends
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
            *(_ratio(tally[f"{name} same"], tally[name]) for name in ("given", "refined", "gold")),
        ]
        for source, tally in tallies.items()
    ]
    columns = ["Source", "#Votes", "#Abstained", "#Agrees with given", "#Agrees with refined", "#Right (gold known)"]
    return [Heading("Sources of votes"), Table("How often each source voted, and with whom it agrees", columns, rows)]


def _changes(report: ReportInput, config: ReportConfig) -> list[Block]:
    by_decision: dict[Verdict, list[Decision]] = defaultdict(list)
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
    if row.decision is Verdict.DROP:
        return "dropped"
    if row.decision is Verdict.REVIEW and not row.refined_label:
        return "for review"
    return row.refined_label or ABSENT


def _outcome(row: Decision, gold: str) -> str:
    before, after = row.given_label == gold, row.refined_label == gold
    if row.decision is Verdict.DROP:
        return " (dropped a right label)" if before else " (dropped a wrong label)"
    if not row.refined_label:
        return ""
    if not row.given_label:
        return " (right)" if after else " (wrong)"
    if before == after:
        return " (still right)" if after else " (still wrong)"
    return " (corrected)" if after else " (broken)"


def _or_blank(number: int) -> str:
    return count(number) if number else ""


def _share(moved: Mapping[tuple[str, str], int], pair: tuple[str, str], most: int) -> float:
    return moved.get(pair, 0) / most if most else 0.0


def _ratio(part: int, whole: int) -> str:
    return percent(part / whole) if whole else UNKNOWN
