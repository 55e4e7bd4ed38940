"""Report the corpus and its quarantined clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES, Clip, Split, WordsFrom
from ecmf_pipeline.core.predictions import Basis
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
    clean_text,
    corpus_text,
    count,
    join_items,
    name_text,
    ordered_labels,
    percent,
    shorten,
)
from ecmf_pipeline.report.charts import Bar, Colour, bars
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import ReportInput, column, predicted_labels
from ecmf_pipeline.report.words import given_label

LABEL_SETS: dict[str, Colour] = {
    "given labels": "blue",
    "verdicts": "blue",
    "refined labels": "vermillion",
    "gold labels": "green",
    "predictions for candidates": "purple",
}
MAX_REASONS = 12
"""Maximum number of bars in the quarantine chart; the table lists all reasons."""


def corpus_section(report: ReportInput, config: ReportConfig) -> Section:
    """Show size, labels and findings of the corpus."""
    blocks: list[Block] = [Paragraph(_sizes(report))]
    blocks += [Notice(f"{note[:1].upper()}{note[1:]}.") for note in report.language_notes]
    blocks += _label_distribution(report)
    blocks += _findings(report, config)
    return Section("corpus", "Corpus", blocks)


def _sizes(report: ReportInput) -> str:
    clips = report.clips
    if not clips:
        return "The manifest lists no clips."
    splits = Counter(column(clips, "split"))
    purposes = {
        Split.TRAIN: "for training",
        Split.CANDIDATE: "candidates to predict",
        Split.UNLABELED: "unlabeled",
    }
    minutes = sum(column(clips, "duration")) / 60
    groups = set(column(clips, "group")) - {""}
    parts = [f"{count(splits[split])} {words}" for split, words in purposes.items() if splits[split]]
    media_counts = [
        f"{count(sum(column(clips, 'has_video')))} have video",
        f"{count(sum(column(clips, 'has_audio')))} have audio",
        f"{count(sum(bool(text.strip()) for text in column(clips, 'transcript')))} have a transcript"
        f"{_word_origins(clips)}",
    ]
    total_duration = f"{minutes / 60:,.1f} hours" if minutes >= 120 else f"{minutes:.1f} minutes"
    sentence = (
        f"{count(len(clips), 'clip')}, {total_duration} in total: {join_items(parts)}. "
        f"Of these, {join_items(media_counts)}."
    )
    if groups:
        sentence += f" They come from {count(len(groups), 'speaker or dialogue', 'speakers or dialogues')}."
    if origin := report.index.get("splits"):
        sentence += f" {clean_text(str(origin))}."
    return sentence


def _word_origins(clips: Sequence[Clip]) -> str:
    """Return how many transcripts come from speech recognition or corrections, in brackets; empty if none does."""
    pairs = zip(column(clips, "words_from"), column(clips, "transcript"), strict=True)
    origins = Counter(origin for origin, text in pairs if text.strip())
    meanings = {WordsFrom.MACHINE: "recognised by a machine", WordsFrom.CORRECTED: "corrected by a person"}
    parts = [f"{count(origins[origin])} {meaning}" for origin, meaning in meanings.items() if origins[origin]]
    return f" ({', '.join(parts)})" if parts else ""


def _label_distribution(report: ReportInput) -> list[Block]:
    counts = _label_counts(report)
    shown = {name: tally for name, tally in counts.items() if tally}
    if not shown:
        return [Notice("No label distribution: no clip has a given, gold or predicted label.")]
    labels = ordered_labels(report.labels, (label for tally in shown.values() for label in tally))
    groups = [(label, [_label_bar(name, tally, label) for name, tally in shown.items()]) for label in labels]
    sentence = _most_and_least_frequent(*next(iter(shown.items())), labels)
    if absent := [f"no {name}" for name, tally in counts.items() if not tally]:
        sentence += Markup(" There are {}.").format(join_items(absent))
    legend = {f"{name} ({count(tally.total())})": LABEL_SETS[name] for name, tally in shown.items()}
    drawing = bars(groups, alt=f"Label distribution. {sentence.striptags()}", legend=legend)
    rows = [[corpus_text(label), *(count(tally[label]) for tally in shown.values())] for label in labels]
    numbers = Table("Clips by label", ["Label", *(f"#{name}" for name in shown)], rows)
    caption = "Label distribution: share of each label within its set."
    if report.corpus.get("basis") == Basis.ZERO_SHOT:
        caption += " Refined labels and predictions are zero-shot, unverified."
    return [Heading("Labels"), Paragraph(sentence), Figure(drawing, caption, numbers)]


def _label_counts(report: ReportInput) -> dict[str, Counter[str]]:
    """Count clips by label, for each of `LABEL_SETS`."""
    labels = predicted_labels(report.predictions)
    pairs = zip(column(report.clips, "clip_id"), column(report.clips, "split"), strict=True)
    candidates = (labels[name] for name, split in pairs if split == Split.CANDIDATE and name in labels)
    return {
        f"{given_label(report.corpus.get('basis'))}s": Counter(filter(None, column(report.clips, "given_label"))),
        "refined labels": Counter(filter(None, column(report.refined, "refined_label"))),
        "gold labels": Counter(filter(None, column(report.clips, "gold_label"))),
        "predictions for candidates": Counter(candidates),
    }


def _label_bar(name: str, tally: Counter[str], label: str) -> Bar:
    share = tally[label] / tally.total()
    return Bar(share, f"{count(tally[label])} ({percent(share)})", LABEL_SETS[name])


def _most_and_least_frequent(name: str, tally: Counter[str], labels: Sequence[str]) -> Markup:
    ranked = sorted(labels, key=lambda label: -tally[label])
    most, least = (
        Markup("{} ({})").format(name_text(label), percent(tally[label] / tally.total()))
        for label in (ranked[0], ranked[-1])
    )
    sentence = Markup("Of the {} {}, the most frequent is {} and the least frequent {}.")
    return sentence.format(count(tally.total()), name, most, least)


def _findings(report: ReportInput, config: ReportConfig) -> list[Block]:
    kinds = {str(kind): int(number) for kind, number in (report.index.get("findings") or {}).items()}
    if not kinds:
        kinds = dict(Counter(str(finding.get("kind", "")) for finding in report.findings))
    if not sum(kinds.values()):
        return [Heading("Findings"), Paragraph("The index found no missing or inconsistent data.")]
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    table = Table(
        "Findings by kind", ["Kind", "#Count"], [[kind.replace("_", " "), count(number)] for kind, number in ordered]
    )
    blocks: list[Block] = [
        Heading("Findings"),
        Paragraph("Missing or inconsistent data found while indexing the corpus; the run continued without it."),
        table,
    ]
    if report.findings and config.finding_rows:
        rows = [
            [
                corpus_text(str(finding.get("kind", "")).replace("_", " ")),
                corpus_text(str(finding.get("clip_id", "")) or UNKNOWN, MAX_CLIP_ID_BYTES),
                corpus_text(str(finding.get("message", "")), 2 * config.text_length),
            ]
            for finding in report.findings[: config.finding_rows]
        ]
        hidden = len(report.findings) - len(rows)
        blocks.append(
            Collapsible("All findings", [Table("Findings", ["Kind", "Clip", "Message"], rows, hidden=hidden)])
        )
    return blocks


def quarantine_section(report: ReportInput, config: ReportConfig) -> Section:
    """Show the clips that a stage could not use, with the reasons."""
    title = "Quarantined clips"
    entries = report.quarantine
    if not entries:
        return Section("quarantine", title, [Paragraph("No clip was quarantined.")])
    clips = {entry.clip_id for entry in entries}
    reasons = Counter(entry.reason for entry in entries)
    places = Counter((entry.stage, entry.modality, entry.reason) for entry in entries)
    common = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    share = f" ({percent(len(clips) / len(report.clips), 1)} of the corpus)" if report.clips else ""
    sentence = (
        f"{count(len(clips), 'clip')}{share} could not be used by at least one stage. The most frequent reason is "
        f"{shorten(common[0][0], 60)} ({count(common[0][1])} of {count(len(entries), 'entry', 'entries')}). "
        "A quarantined clip is retried if its input or the settings change."
    )
    blocks: list[Block] = [Paragraph(sentence)]
    if bugs := sum(entry.may_be_bug for entry in entries):
        blocks.append(
            Notice(
                f"{count(bugs, 'entry', 'entries')} with UnexpectedError may show bugs of ecmf-pipeline instead of bad "
                "clips: please report the message. Another version of the program retries these clips."
            )
        )
    groups = [(reason, [Bar(float(number), count(number), "vermillion")]) for reason, number in common[:MAX_REASONS]]
    drawing = bars(groups, alt=f"Quarantine entries by reason. {sentence}")
    tally = Table(
        "Entries by stage, modality and reason",
        ["Stage", "Modality", "Reason", "#Entries"],
        [
            [corpus_text(stage), corpus_text(modality or UNKNOWN), name_text(reason, 60), count(number)]
            for (stage, modality, reason), number in sorted(places.items(), key=lambda item: (-item[1], item[0]))
        ],
    )
    caption = "Quarantine entries by reason" + (", the most frequent." if len(common) > MAX_REASONS else ".")
    collapsible = Collapsible("All entries", [_entries(report, config)])
    return Section("quarantine", title, [*blocks, Figure(drawing, caption), tally, collapsible])


def _entries(report: ReportInput, config: ReportConfig) -> Table:
    ordered = sorted(report.quarantine, key=lambda entry: (entry.stage, entry.modality, entry.reason, entry.clip_id))
    shown = ordered[: config.quarantine_rows]
    rows = [
        [
            corpus_text(entry.clip_id, MAX_CLIP_ID_BYTES),
            corpus_text(entry.stage),
            corpus_text(entry.modality or UNKNOWN),
            name_text(entry.reason, 60),
            corpus_text(entry.message, config.text_length),
        ]
        for entry in shown
    ]
    columns = ["Clip", "Stage", "Modality", "Reason", "Message"]
    return Table("Quarantined clips", columns, rows, hidden=len(ordered) - len(rows))
