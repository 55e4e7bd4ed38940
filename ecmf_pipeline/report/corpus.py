"""Report the corpus: sizes, labels, findings of the index, and the clips that were quarantined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES, Split
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Figure,
    Folded,
    Heading,
    Notice,
    Paragraph,
    Section,
    Table,
    count,
    foreign,
    in_order,
    listing,
    percent,
    shortened,
)
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import ReportInput
from ecmf_pipeline.report.plots import Bar, Colour, bars

LABEL_SETS: dict[str, Colour] = {
    "given labels": "blue",
    "refined labels": "vermillion",
    "gold labels": "green",
    "predictions for candidates": "purple",
}
MOST_REASONS = 12
"""Bars of the quarantine chart; the table beside it has them all."""


def corpus_section(report: ReportInput, config: ReportConfig) -> Section:
    """Sizes, labels and oddities of the corpus."""
    blocks: list[Block] = [Paragraph(_sizes(report))]
    blocks += _label_distribution(report)
    blocks += _findings(report, config)
    return Section("corpus", "Corpus", blocks)


def _sizes(report: ReportInput) -> str:
    clips = report.clips
    if not clips:
        return "The manifest lists no clips."
    splits = Counter(clip.split for clip in clips)
    purposes = {
        Split.TRAIN: "to train on",
        Split.CANDIDATE: "candidates to predict",
        Split.UNLABELED: "unlabeled",
    }
    minutes = sum(clip.duration for clip in clips) / 60
    groups = {clip.group for clip in clips if clip.group}
    parts = [f"{count(splits[split])} {words}" for split, words in purposes.items() if splits[split]]
    having = [
        f"{count(sum(clip.has_video for clip in clips))} hold pictures",
        f"{count(sum(clip.has_audio for clip in clips))} hold sound",
        f"{count(sum(bool(clip.transcript.strip()) for clip in clips))} come with a transcript",
    ]
    together = f"{minutes / 60:,.1f} hours" if minutes >= 120 else f"{minutes:.1f} minutes"
    sentence = f"{count(len(clips), 'clip')}, {together} in all: {listing(parts)}. Of these, {listing(having)}."
    if groups:
        sentence += f" They come from {count(len(groups), 'speaker or dialogue', 'speakers or dialogues')}."
    return sentence


def _label_distribution(report: ReportInput) -> list[Block]:
    counts = _label_counts(report)
    shown = {name: tally for name, tally in counts.items() if tally}
    if not shown:
        return [Notice("No clip has a label, given, gold or predicted: there is no label distribution to show.")]
    labels = in_order(report.labels, (label for tally in shown.values() for label in tally))
    groups = [(label, [_label_bar(name, tally, label) for name, tally in shown.items()]) for label in labels]
    sentence = _commonest(*next(iter(shown.items())), labels)
    if absent := [f"no {name}" for name, tally in counts.items() if not tally]:
        sentence += f" There are {listing(absent)}."
    legend = {f"{name} ({count(tally.total())})": LABEL_SETS[name] for name, tally in shown.items()}
    drawing = bars(groups, alt=f"Label distribution. {sentence}", legend=legend)
    rows = [[foreign(label), *(count(tally[label]) for tally in shown.values())] for label in labels]
    numbers = Table("Clips by label", ["Label", *(f"#{name}" for name in shown)], rows)
    caption = "Label distribution: the share of each label within its own set, so that sets of different size compare."
    return [Heading("Labels"), Paragraph(sentence), Figure(drawing, caption, numbers)]


def _label_counts(report: ReportInput) -> dict[str, Counter[str]]:
    """Clips by label, for each of `LABEL_SETS`."""
    candidates = (row.label for row in report.predictions if row.label and row.split == Split.CANDIDATE)
    return {
        "given labels": Counter(clip.given_label for clip in report.clips if clip.given_label),
        "refined labels": Counter(row.refined_label for row in report.refined if row.refined_label),
        "gold labels": Counter(clip.gold_label for clip in report.clips if clip.gold_label),
        "predictions for candidates": Counter(candidates),
    }


def _label_bar(name: str, tally: Counter[str], label: str) -> Bar:
    share = tally[label] / tally.total()
    return Bar(share, f"{count(tally[label])} ({percent(share)})", LABEL_SETS[name])


def _commonest(name: str, tally: Counter[str], labels: Sequence[str]) -> str:
    ranked = sorted(labels, key=lambda label: -tally[label])
    most, least = (
        f"{shortened(label, 40)} ({percent(tally[label] / tally.total())})" for label in (ranked[0], ranked[-1])
    )
    return f"Among the {count(tally.total())} {name}, the commonest is {most} and the rarest {least}."


def _findings(report: ReportInput, config: ReportConfig) -> list[Block]:
    kinds = {str(kind): int(number) for kind, number in (report.index.get("findings") or {}).items()}
    if not kinds:
        kinds = dict(Counter(str(finding.get("kind", "")) for finding in report.findings))
    if not sum(kinds.values()):
        return [Heading("Findings"), Paragraph("The index found nothing missing and nothing inconsistent.")]
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    table = Table(
        "Findings by kind", ["Kind", "#Count"], [[kind.replace("_", " "), count(number)] for kind, number in ordered]
    )
    blocks: list[Block] = [
        Heading("Findings"),
        Paragraph("What the index found missing or inconsistent in the corpus; the run goes on without it."),
        table,
    ]
    if report.findings and config.finding_rows:
        rows = [
            [
                foreign(str(finding.get("kind", "")).replace("_", " ")),
                foreign(str(finding.get("clip_id", "")) or UNKNOWN, MAX_CLIP_ID_BYTES),
                foreign(str(finding.get("message", "")), 2 * config.text_length),
            ]
            for finding in report.findings[: config.finding_rows]
        ]
        hidden = len(report.findings) - len(rows)
        blocks.append(
            Folded("Each finding", [Table("Findings", ["Kind", "Clip", "What was found"], rows, hidden=hidden)])
        )
    return blocks


def quarantine_section(report: ReportInput, config: ReportConfig) -> Section:
    """Clips that a stage could not use, and why."""
    title = "Quarantine"
    entries = report.quarantine
    if not entries:
        return Section("quarantine", title, [Paragraph("Nothing was quarantined: every stage could use every clip.")])
    clips = {entry.clip_id for entry in entries}
    reasons = Counter(entry.reason for entry in entries)
    places = Counter((entry.stage, entry.modality, entry.reason) for entry in entries)
    common = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    share = f" ({percent(len(clips) / len(report.clips), 1)} of the corpus)" if report.clips else ""
    sentence = (
        f"{count(len(clips), 'clip')}{share} could not be used by some stage. The commonest reason is "
        f"{shortened(common[0][0], 60)} ({count(common[0][1])} of {count(len(entries), 'entry', 'entries')}). "
        "A quarantined clip is tried again once its input or the settings change."
    )
    groups = [(reason, [Bar(float(number), count(number), "vermillion")]) for reason, number in common[:MOST_REASONS]]
    drawing = bars(groups, alt=f"Quarantine entries by reason. {sentence}")
    tally = Table(
        "Entries by stage, modality and reason",
        ["Stage", "Modality", "Reason", "#Entries"],
        [
            [foreign(stage), foreign(modality or UNKNOWN), foreign(reason, 60), count(number)]
            for (stage, modality, reason), number in sorted(places.items(), key=lambda item: (-item[1], item[0]))
        ],
    )
    caption = "Quarantine entries by reason" + (", the commonest." if len(common) > MOST_REASONS else ".")
    folded = Folded("Each entry", [_entries(report, config)])
    return Section("quarantine", title, [Paragraph(sentence), Figure(drawing, caption), tally, folded])


def _entries(report: ReportInput, config: ReportConfig) -> Table:
    ordered = sorted(report.quarantine, key=lambda entry: (entry.stage, entry.modality, entry.reason, entry.clip_id))
    shown = ordered[: config.quarantine_rows]
    rows = [
        [
            foreign(entry.clip_id, MAX_CLIP_ID_BYTES),
            foreign(entry.stage),
            foreign(entry.modality or UNKNOWN),
            foreign(entry.reason, 60),
            foreign(entry.message, config.text_length),
        ]
        for entry in shown
    ]
    columns = ["Clip", "Stage", "Modality", "Reason", "What was found"]
    return Table("Quarantined clips", columns, rows, hidden=len(ordered) - len(rows))
