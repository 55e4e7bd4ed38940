"""Report the features of each modality: coverage, encoders, origin, and contact sheets of faces."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES
from ecmf_pipeline.core.files import fingerprint
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
    clean_text,
    corpus_text,
    count,
    join_items,
    shorten,
)
from ecmf_pipeline.report.charts import Colour, stacked
from ecmf_pipeline.report.inputs import NO_FACE, FaceSheet, ReportInput
from ecmf_pipeline.report.runtime import licence_of

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
                licence_of(name, str(report.provenance.get(modality, {}).get("model"))),
                fingerprint(values),
            ]
        )
        lines = [[corpus_text(key, 80), corpus_text(_HASH.sub(_cut_hash, text))] for key, text in flat_settings.items()]
        settings.append(Table(f"Settings of {modality}", ["Setting", "Value"], lines))
    columns = ["Modality", "Encoder", "#Width", "Weights (start of SHA-256)", "Licence", "Fingerprint"]
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
    """Show one row per modality or encoder."""
    rows = [
        [
            corpus_text(modality, 40),
            corpus_text(str(origin.get("model") or UNKNOWN), 80),
            corpus_text(_revision(origin), 60),
            corpus_text(_weights(origin), 120),
            corpus_text(_values(origin.get("preprocessing")), 400),
            corpus_text(str(origin.get("precision") or UNKNOWN), 40),
            corpus_text(str(origin.get("device") or UNKNOWN), 40),
            corpus_text(_versions(report.computed_with.get(modality, ())), 800),
        ]
        for modality in report.encoders
        for origin in [_origin(modality, report)]
    ]
    columns = [
        "Modality", "Model", "Revision", "Weights (start of SHA-256)", "Preprocessing", "Precision", "Device",
        "Versions",
    ]  # fmt: skip
    without_origin = [modality for modality in report.encoders if not report.provenance.get(modality)]
    table = Table("Models and versions by modality", columns, rows)
    blocks: list[Block] = [Collapsible("Origin of the features", [table])]
    if without_origin:
        names = ", ".join(without_origin)
        text = f"{names}: the store does not record the origin of its features; the table shows its settings."
        blocks.append(Paragraph(text))
    return blocks


def _origin(modality: str, report: ReportInput) -> Mapping[str, Any]:
    origin = report.provenance.get(modality)
    if origin is None:  # settings of imported features contain only name and dtype
        encoder = report.encoders[modality].get("encoder", {})
        return {"model": encoder.get("name"), "precision": encoder.get("dtype")}
    return origin


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
        n_faceless = sum(sheet.reason == NO_FACE for sheet in shown)
        parts = []
        if n_faces := len(shown) - n_faceless:
            parts.append(f"{count(n_faces, 'clip')}, from the lowest to the highest landmark quality. {_HOW_TO_READ}")
        if n_faceless:
            parts.append(f"{count(n_faceless, 'clip')} in which no face was found: some of the searched frames.")
        blocks.append(Paragraph(" ".join(parts)))
        blocks.append(_photograph(shown[0]))
        if shown[1:]:
            blocks.append(Collapsible(f"{count(len(shown) - 1)} more", [_photograph(sheet) for sheet in shown[1:]]))
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
