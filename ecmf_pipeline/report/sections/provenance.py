"""What was set aside, and what the run was made with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Figure,
    Folded,
    Notice,
    Paragraph,
    Section,
    Table,
    Verbatim,
    clean,
    count,
    foreign,
    percent,
    shortened,
)
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import ReportInput
from ecmf_pipeline.report.plots import Bar, bars

MOST_REASONS = 12
"""Bars of the quarantine chart; the table beside it has them all."""
_SECRET = re.compile(r"(api_?key|secret|password|token)$", re.IGNORECASE)


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


def provenance_section(report: ReportInput) -> Section:
    """Corpus, params and versions."""
    root = report.corpus.get("root") or UNKNOWN
    blocks: list[Block] = [
        Paragraph(f"Corpus folder: {clean(str(root))}. The same inputs give this page byte for byte.")
    ]
    if report.params:
        text = yaml.safe_dump(_without_secrets(report.params), sort_keys=False, allow_unicode=True, width=100)
        blocks.append(Folded("Params of the run", [Verbatim(clean(text))]))
    else:
        blocks.append(Notice("The params of the run were not handed to the report."))
    if report.versions:
        rows = [[foreign(package), foreign(version)] for package, version in sorted(report.versions.items())]
        blocks.append(Folded("Versions", [Table("Package versions", ["Package", "Version"], rows)]))
    return Section("provenance", "Provenance", blocks)


def _without_secrets(value: Any) -> Any:
    """The params with keys of services struck out: a report is made to be passed on."""
    if isinstance(value, Mapping):
        return {
            key: "(not shown)"
            if isinstance(inner, str) and inner and _SECRET.search(str(key))
            else _without_secrets(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(inner) for inner in value]
    return value
