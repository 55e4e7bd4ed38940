"""Report the corpus, its quarantined clips, the features of each modality, and what the run was made with."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES, Split
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Bar,
    Block,
    Colour,
    Figure,
    Folded,
    Heading,
    Notice,
    Paragraph,
    Photograph,
    Section,
    Table,
    Verbatim,
    bars,
    clean,
    count,
    foreign,
    in_order,
    listing,
    percent,
    shortened,
    stacked,
)
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import FaceSheet, ReportInput

LABEL_SETS: dict[str, Colour] = {
    "given labels": "blue",
    "refined labels": "vermillion",
    "gold labels": "green",
    "predictions for candidates": "purple",
}
MOST_REASONS = 12
"""Bars of the quarantine chart; the table beside it has them all."""
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
    "Above, one whole frame with the face's box and landmarks (its crop has a green edge); below, every crop that "
    "features were computed from, with its time in the clip, the detector's score (s) and the landmark quality (q, 0 "
    "to 1: low where the face is turned away, blurred or small). All crops of a clip should show one person."
)
_SECRET = re.compile(r"(api_?key|secret|password|token)$", re.IGNORECASE)


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


def features_section(report: ReportInput) -> Section:
    """Coverage and encoder of each modality, and where its features come from."""
    blocks: list[Block] = []
    if report.coverage:
        blocks += _coverage(report)
    else:
        blocks.append(Notice("No features were extracted, or their coverage was not handed to the report."))
    if report.encoders:
        blocks += _encoders(report)
        blocks += sources(report)
    return Section("features", "Features", blocks)


def _coverage(report: ReportInput) -> list[Block]:
    names = list(report.coverage)
    tallies = {name: {state: int(report.coverage[name].get(state) or 0) for state in COVERAGE} for name in names}
    totals = {name: sum(tally.values()) for name, tally in tallies.items()}
    states = [state for state in COVERAGE if any(tally[state] for tally in tallies.values())]
    layers = [(state, COVERAGE[state][0], [float(tallies[name][state]) for name in names]) for state in states]
    texts = [f"{count(tallies[name]['done'])} of {count(totals[name])}" for name in names]
    least = min(names, key=lambda name: tallies[name]["done"] / (totals[name] or 1))
    sentence = (
        "Every modality has features of every clip."
        if all(tallies[name]["done"] == totals[name] for name in names)
        else f"The modality with the least coverage is {least}: {count(tallies[least]['done'])} of "
        f"{count(totals[least])} clips have its features. A modality that a clip lacks is masked, never filled in."
    )
    meanings = "; ".join(f"{state}: {COVERAGE[state][1]}" for state in states)
    rows = [[name, *(count(tallies[name][state]) for state in COVERAGE)] for name in names]
    numbers = Table("Clips by modality and state", ["Modality", *(f"#{state}" for state in COVERAGE)], rows)
    drawing = stacked(names, layers, alt=f"Coverage of the modalities. {sentence}", texts=texts)
    return [Paragraph(sentence), Figure(drawing, f"Coverage by modality ({meanings}).", numbers)]


def _encoders(report: ReportInput) -> list[Block]:
    rows, settings = [], []
    for modality, values in report.encoders.items():
        flat = dict(_flattened(values))
        name = next((text for key, text in flat.items() if key.split(".")[-1] in {"type", "encoder", "name"}), UNKNOWN)
        hashes = [text[:_SHOWN_DIGITS] for key, text in flat.items() if "weights" in key and _HASH.fullmatch(text)]
        width = report.dims.get(modality) or values.get("dim")
        rows.append(
            [
                modality,
                foreign(name, 60),
                UNKNOWN if width is None else str(width),
                shortened(_first_two(hashes), 80) or "none",
                fingerprint(values),
            ]
        )
        lines = [[foreign(key, 80), foreign(_HASH.sub(_cut_hash, text))] for key, text in flat.items()]
        settings.append(Table(f"Settings of {modality}", ["Setting", "Value"], lines))
    columns = ["Modality", "Encoder", "#D", "Weights (start of SHA-256)", "Fingerprint"]
    return [Heading("Encoders"), Table("The encoder of each modality", columns, rows), Folded("All settings", settings)]


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _cut_hash(match: re.Match[str]) -> str:
    return match.group()[:_SHOWN_DIGITS] + "\N{HORIZONTAL ELLIPSIS}"


def _first_two(hashes: Sequence[str]) -> str:
    return ", ".join(hashes[:2]) + (f" and {len(hashes) - 2} more" if len(hashes) > 2 else "")


def sources(report: ReportInput) -> list[Block]:
    """One row a model; where encoders stand side by side, a modality has several."""
    rows = [
        [
            foreign(name, 40),
            foreign(str(origin.get("model") or UNKNOWN), 80),
            foreign(_revision(origin), 60),
            foreign(_weights(origin), 120),
            foreign(_values(origin.get("preprocessing")), 400),
            foreign(str(origin.get("precision") or UNKNOWN), 40),
            foreign(str(origin.get("device") or UNKNOWN), 40),
            foreign(_versions(report.computed_with.get(modality, ())), 800),
        ]
        for modality in report.encoders
        for name, origin in _origins(modality, report)
    ]
    columns = [
        "Modality", "Model", "Revision", "Weights (start of SHA-256)", "Preprocessing", "Precision", "Device",
        "Versions",
    ]  # fmt: skip
    silent = [modality for modality in report.encoders if not report.provenance.get(modality)]
    blocks: list[Block] = [Heading("Provenance"), Table("Where the features come from", columns, rows)]
    if silent:
        names = ", ".join(silent)
        text = f"{names}: the store does not say where its features come from; what its settings say is shown."
        blocks.append(Paragraph(text))
    return blocks


def _origins(modality: str, report: ReportInput) -> Iterator[tuple[str, Mapping[str, Any]]]:
    origin = report.provenance.get(modality)
    if origin is None:  # imported features: their settings have their name and type alone
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
        return "of that commit" if origin.get("commit") else "none"
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
        return "not noted"
    named = [", ".join(f"{name} {version}" for name, version in one.items()) or "not noted" for one in combinations]
    return "; some rows with ".join(named)


def faces_section(report: ReportInput) -> Sequence[Section]:
    """Contact sheets of some clips; no section where none were asked for."""
    if report.no_face_sheets:
        return [Section("faces", "Faces", [Notice(report.no_face_sheets)])]
    if not report.face_sheets:
        return []
    shown = [sheet for sheet in report.face_sheets if sheet.picture]
    blocks: list[Block] = []
    if shown:
        blocks += [Paragraph(f"{count(len(shown), 'clip')}, chosen for what can go wrong. {_HOW_TO_READ}")]
        blocks += [_photograph(sheet) for sheet in shown]
    if missing := [sheet for sheet in report.face_sheets if not sheet.picture]:
        rows = [
            [foreign(sheet.clip_id, MAX_CLIP_ID_BYTES), foreign(sheet.why), foreign(sheet.problem)] for sheet in missing
        ]
        are = "1 chosen clip is" if len(missing) == 1 else f"{count(len(missing))} chosen clips are"
        blocks.append(Notice(f"{are} not shown: the media cannot be read on this machine, or not as they were."))
        blocks.append(Folded("Which", [Table("Clips that are not shown", ["Clip", "Chosen as", "Why not"], rows)]))
    return [Section("faces", "Faces", blocks)]


def _photograph(sheet: FaceSheet) -> Photograph:
    address = f"data:image/jpeg;base64,{base64.b64encode(sheet.picture).decode()}"
    name = foreign(sheet.clip_id, MAX_CLIP_ID_BYTES)
    return Photograph(
        address,
        alt=f"Contact sheet of {shortened(sheet.clip_id, 80)}: {sheet.about}",
        caption=name + f": {sheet.why}. {sheet.about}",
        width=sheet.width,
        height=sheet.height,
    )


def provenance_section(report: ReportInput) -> Section:
    """Corpus, params and versions."""
    root = report.corpus.get("root") or UNKNOWN
    text = yaml.safe_dump(_without_secrets(report.params), sort_keys=False, allow_unicode=True, width=100)
    rows = [[foreign(package), foreign(version)] for package, version in sorted(report.versions.items())]
    blocks: list[Block] = [
        Paragraph(f"Corpus folder: {clean(str(root))}. The same inputs give this page byte for byte."),
        Folded("Params of the run", [Verbatim(clean(text))]),
        Folded("Versions", [Table("Package versions", ["Package", "Version"], rows)]),
    ]
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
