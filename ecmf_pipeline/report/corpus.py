"""Report the corpus, quarantined clips, features of each modality, and provenance of the run."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES, Clip, Split, WordsFrom
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Collapsible,
    Figure,
    Heading,
    Notice,
    Paragraph,
    Photograph,
    Section,
    Table,
    Verbatim,
    clean_text,
    corpus_text,
    count,
    join_items,
    ordered_labels,
    percent,
    shorten,
)
from ecmf_pipeline.report.charts import Bar, Colour, bars, stacked
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import FaceSheet, ReportInput

LABEL_SETS: dict[str, Colour] = {
    "given labels": "blue",
    "refined labels": "vermillion",
    "gold labels": "green",
    "predictions for candidates": "purple",
}
MAX_REASONS = 12
"""Maximum number of bars in the quarantine chart; the table lists all reasons."""
COVERAGE: dict[str, tuple[Colour, str]] = {
    "done": ("blue", "features are stored"),
    "absent": ("grey", "the clip has no such input"),
    "quarantined": ("vermillion", "the input could not be used"),
    "missing": ("yellow", "not extracted yet"),
}
_HASH = re.compile(r"[0-9a-f]{32,}")
_SOURCE_HASH = re.compile(r"\b[0-9a-f]{32,}\b")
_SHOWN_DIGITS = 12
_HOW_TO_READ = (
    "Top: one whole frame with the box and landmarks of the face (the crop of this frame has a green edge). Bottom: "
    "all crops used for features, with time in the clip, detection score (s) and landmark quality (q, 0 to 1: low if "
    "the face is turned away, blurred or small). All crops of a clip should show the same person."
)
_SECRET = re.compile(r"(api_?key|secret|password|token)$", re.IGNORECASE)


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
    splits = Counter(clip.split for clip in clips)
    purposes = {
        Split.TRAIN: "for training",
        Split.CANDIDATE: "candidates to predict",
        Split.UNLABELED: "unlabeled",
    }
    minutes = sum(clip.duration for clip in clips) / 60
    groups = {clip.group for clip in clips if clip.group}
    parts = [f"{count(splits[split])} {words}" for split, words in purposes.items() if splits[split]]
    media_counts = [
        f"{count(sum(clip.has_video for clip in clips))} have video",
        f"{count(sum(clip.has_audio for clip in clips))} have audio",
        f"{count(sum(bool(clip.transcript.strip()) for clip in clips))} have a transcript{_word_origins(clips)}",
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
    origins = Counter(clip.words_from for clip in clips if clip.transcript.strip())
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
        sentence += f" There are {join_items(absent)}."
    legend = {f"{name} ({count(tally.total())})": LABEL_SETS[name] for name, tally in shown.items()}
    drawing = bars(groups, alt=f"Label distribution. {sentence}", legend=legend)
    rows = [[corpus_text(label), *(count(tally[label]) for tally in shown.values())] for label in labels]
    numbers = Table("Clips by label", ["Label", *(f"#{name}" for name in shown)], rows)
    caption = "Label distribution: share of each label within its set."
    if report.corpus.get("basis") == Basis.ZERO_SHOT:
        caption += " Refined labels and predictions are zero-shot, unverified."
    return [Heading("Labels"), Paragraph(sentence), Figure(drawing, caption, numbers)]


def _label_counts(report: ReportInput) -> dict[str, Counter[str]]:
    """Count clips by label, for each of `LABEL_SETS`."""
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


def _most_and_least_frequent(name: str, tally: Counter[str], labels: Sequence[str]) -> str:
    ranked = sorted(labels, key=lambda label: -tally[label])
    most, least = (
        f"{shorten(label, 40)} ({percent(tally[label] / tally.total())})" for label in (ranked[0], ranked[-1])
    )
    return f"Of the {count(tally.total())} {name}, the most frequent is {most} and the least frequent {least}."


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
            [corpus_text(stage), corpus_text(modality or UNKNOWN), corpus_text(reason, 60), count(number)]
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
            corpus_text(entry.reason, 60),
            corpus_text(entry.message, config.text_length),
        ]
        for entry in shown
    ]
    columns = ["Clip", "Stage", "Modality", "Reason", "Message"]
    return Table("Quarantined clips", columns, rows, hidden=len(ordered) - len(rows))


def features_section(report: ReportInput) -> Section:
    """Show coverage, encoder and origin of the features of each modality."""
    blocks: list[Block] = []
    if report.absent:
        blocks.append(Paragraph(f"No clip has an input of {join_items(report.absent)}: left out of this page."))
    if report.coverage:
        blocks += _coverage(report)
    else:
        blocks.append(Notice("No features were extracted, or their coverage is not available."))
    if report.encoders:
        blocks += _encoders(report)
        blocks += origin_blocks(report)
    return Section("features", "Features", blocks)


def _coverage(report: ReportInput) -> list[Block]:
    names = list(report.coverage)
    tallies = {name: {state: int(report.coverage[name].get(state) or 0) for state in COVERAGE} for name in names}
    totals = {name: sum(tally.values()) for name, tally in tallies.items()}
    states = [state for state in COVERAGE if any(tally[state] for tally in tallies.values())]
    layers = [(state, COVERAGE[state][0], [float(tallies[name][state]) for name in names]) for state in states]
    texts = [f"{count(tallies[name]['done'])} of {count(totals[name])}" for name in names]
    worst_covered = min(names, key=lambda name: tallies[name]["done"] / (totals[name] or 1))
    sentence = (
        "All modalities have features of all clips."
        if all(tallies[name]["done"] == totals[name] for name in names)
        else f"The modality with the least coverage is {worst_covered}: {count(tallies[worst_covered]['done'])} of "
        f"{count(totals[worst_covered])} clips have its features. Missing modalities are masked, not imputed."
    )
    meanings = "; ".join(f"{state}: {COVERAGE[state][1]}" for state in states)
    rows = [[name, *(count(tallies[name][state]) for state in COVERAGE)] for name in names]
    numbers = Table("Clips by modality and state", ["Modality", *(f"#{state}" for state in COVERAGE)], rows)
    drawing = stacked(names, layers, alt=f"Coverage of the modalities. {sentence}", texts=texts)
    return [Paragraph(sentence), Figure(drawing, f"Coverage by modality ({meanings}).", numbers)]


def _encoders(report: ReportInput) -> list[Block]:
    rows, settings = [], []
    for modality, values in report.encoders.items():
        flat_settings = dict(_flattened(values))
        name = next(
            (text for key, text in flat_settings.items() if key.split(".")[-1] in {"type", "encoder", "name"}), UNKNOWN
        )
        hashes = [
            text[:_SHOWN_DIGITS] for key, text in flat_settings.items() if "weights" in key and _HASH.fullmatch(text)
        ]
        width = report.dims.get(modality) or values.get("dim")
        rows.append(
            [
                modality,
                corpus_text(name, 60),
                UNKNOWN if width is None else str(width),
                shorten(_first_two(hashes), 80) or "none",
                fingerprint(values),
            ]
        )
        lines = [[corpus_text(key, 80), corpus_text(_HASH.sub(_cut_hash, text))] for key, text in flat_settings.items()]
        settings.append(Table(f"Settings of {modality}", ["Setting", "Value"], lines))
    columns = ["Modality", "Encoder", "#Width", "Weights (start of SHA-256)", "Fingerprint"]
    return [
        Heading("Encoders"),
        Table("The encoder of each modality", columns, rows),
        Collapsible("All settings", settings),
    ]


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield (
                f"{prefix}{key}",
                clean_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)),
            )


def _cut_hash(match: re.Match[str]) -> str:
    return match.group()[:_SHOWN_DIGITS] + "\N{HORIZONTAL ELLIPSIS}"


def _first_two(hashes: Sequence[str]) -> str:
    return ", ".join(hashes[:2]) + (f" and {len(hashes) - 2} more" if len(hashes) > 2 else "")


def origin_blocks(report: ReportInput) -> list[Block]:
    """Show one row per model; a modality with concatenated encoders has several."""
    rows = [
        [
            corpus_text(name, 40),
            corpus_text(str(origin.get("model") or UNKNOWN), 80),
            corpus_text(_revision(origin), 60),
            corpus_text(_weights(origin), 120),
            corpus_text(_values(origin.get("preprocessing")), 400),
            corpus_text(str(origin.get("precision") or UNKNOWN), 40),
            corpus_text(str(origin.get("device") or UNKNOWN), 40),
            corpus_text(_versions(report.computed_with.get(modality, ())), 800),
        ]
        for modality in report.encoders
        for name, origin in _origins(modality, report)
    ]
    columns = [
        "Modality", "Model", "Revision", "Weights (start of SHA-256)", "Preprocessing", "Precision", "Device",
        "Versions",
    ]  # fmt: skip
    without_origin = [modality for modality in report.encoders if not report.provenance.get(modality)]
    blocks: list[Block] = [Heading("Origin of the features"), Table("Models and versions by modality", columns, rows)]
    if without_origin:
        names = ", ".join(without_origin)
        text = f"{names}: the store does not record the origin of its features; the table shows its settings."
        blocks.append(Paragraph(text))
    return blocks


def _origins(modality: str, report: ReportInput) -> Iterator[tuple[str, Mapping[str, Any]]]:
    origin = report.provenance.get(modality)
    if origin is None:  # settings of imported features contain only name and dtype
        encoder = report.encoders[modality].get("encoder", {})
        origin = {"model": encoder.get("name"), "precision": encoder.get("dtype")}
    members: Sequence[Mapping[str, Any]] = origin.get("members", ())
    if not members:
        yield modality, origin
    for number, member in enumerate(members, start=1):
        yield f"{modality} ({number} of {len(members)})", member


def _revision(origin: Mapping[str, Any]) -> str:
    revision, commit = origin.get("revision"), origin.get("commit")
    if not commit:
        return UNKNOWN
    short = str(commit)[:_SHOWN_DIGITS]
    return f"{revision}, commit {short}" if revision and revision != commit else f"commit {short}"


def _weights(origin: Mapping[str, Any]) -> str:
    found = _SOURCE_HASH.findall(json.dumps(origin.get("weights") or {}))
    hashes = [text[:_SHOWN_DIGITS] for text in found if text != origin.get("commit")]
    if not hashes:
        return "as in the commit" if origin.get("commit") else "none"
    return _first_two(hashes)


def _values(values: Any) -> str:
    if not isinstance(values, Mapping) or not values:
        return UNKNOWN
    return ", ".join(f"{key} {_short(value)}" for key, value in values.items() if value is not None)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        between = " x " if len(value) == 2 else ", "  # a size, or a value for each channel
        return between.join(_short(inner) for inner in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _versions(combinations: Sequence[Mapping[str, str]]) -> str:
    if not combinations:
        return "not recorded"
    combinations_text = [
        ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded"
        for versions in combinations
    ]
    return "; some rows with ".join(combinations_text)


def faces_section(report: ReportInput) -> Sequence[Section]:
    """Show contact sheets of some clips; no section if they are disabled."""
    if report.no_face_sheets:
        return [Section("faces", "Faces", [Notice(report.no_face_sheets)])]
    if not report.face_sheets:
        return []
    shown = [sheet for sheet in report.face_sheets if sheet.picture]
    blocks: list[Block] = []
    if shown:
        blocks += [
            Paragraph(f"{count(len(shown), 'clip')}, from the lowest to the highest landmark quality. {_HOW_TO_READ}")
        ]
        blocks += [_photograph(sheet) for sheet in shown]
    if missing := [sheet for sheet in report.face_sheets if not sheet.picture]:
        rows = [
            [corpus_text(sheet.clip_id, MAX_CLIP_ID_BYTES), corpus_text(sheet.reason), corpus_text(sheet.problem)]
            for sheet in missing
        ]
        not_shown = "1 chosen clip is" if len(missing) == 1 else f"{count(len(missing))} chosen clips are"
        blocks.append(
            Notice(f"{not_shown} not shown: the media files cannot be read on this machine, or have changed.")
        )
        table = Table("Clips that are not shown", ["Clip", "Selected as", "Reason"], rows)
        blocks.append(Collapsible("List of these clips", [table]))
    return [Section("faces", "Faces", blocks)]


def _photograph(sheet: FaceSheet) -> Photograph:
    address = f"data:image/jpeg;base64,{base64.b64encode(sheet.picture).decode()}"
    name = corpus_text(sheet.clip_id, MAX_CLIP_ID_BYTES)
    return Photograph(
        address,
        alt=f"Contact sheet of {shorten(sheet.clip_id, 80)}: {sheet.description}",
        caption=name + f": {sheet.reason}. {sheet.description}",
        width=sheet.width,
        height=sheet.height,
    )


def provenance_section(report: ReportInput) -> Section:
    """Show corpus folder, params and package versions."""
    root = report.corpus.get("root") or UNKNOWN
    text = yaml.safe_dump(_without_secrets(report.params), sort_keys=False, allow_unicode=True, width=100)
    rows = [[corpus_text(package), corpus_text(version)] for package, version in sorted(report.versions.items())]
    blocks: list[Block] = [
        Paragraph(f"Corpus folder: {clean_text(str(root))}. Identical inputs give an identical page."),
        Collapsible("Parameters of the run", [Verbatim(clean_text(text))]),
        Collapsible("Package versions", [Table("Package versions", ["Package", "Version"], rows)]),
    ]
    return Section("provenance", "Parameters and versions", blocks)


def _without_secrets(value: Any) -> Any:
    """Return the params with API keys and passwords removed, because reports are shared."""
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
