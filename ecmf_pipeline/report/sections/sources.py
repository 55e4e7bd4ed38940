"""Where the features of each modality come from: model, revision, weights, preprocessing, precision, versions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ecmf_pipeline.report.blocks import UNKNOWN, Block, Heading, Paragraph, Table, foreign
from ecmf_pipeline.report.inputs import ReportInput

_HASH = re.compile(r"\b[0-9a-f]{32,}\b")
_SHOWN_DIGITS = 12


def sources(report: ReportInput) -> list[Block]:
    """One row a model; where encoders stand side by side, a modality has several."""
    rows = [
        [
            foreign(name, 40),
            foreign(_model(origin), 80),
            foreign(_revision(origin), 60),
            foreign(_weights(origin), 120),
            foreign(_values(origin.get("preprocessing")), 400),
            foreign(str(origin.get("precision") or UNKNOWN), 40),
            foreign(_versions(report.computed_with.get(modality, ())), 800),
        ]
        for modality in report.encoders
        for name, origin in _origins(modality, report)
    ]
    columns = ["Modality", "Model", "Revision", "Weights (start of SHA-256)", "Preprocessing", "Precision", "Versions"]
    silent = [modality for modality in report.encoders if not report.provenance.get(modality)]
    blocks: list[Block] = [Heading("Provenance"), Table("Where the features come from", columns, rows)]
    if silent:
        names = ", ".join(silent)
        text = f"{names}: the store does not say where its features come from; what its settings say is shown."
        blocks.append(Paragraph(text))
    return blocks


def _origins(modality: str, report: ReportInput) -> Iterator[tuple[str, Mapping[str, Any]]]:
    origin = report.provenance.get(modality) or _of_settings(report.encoders[modality])
    members: Sequence[Mapping[str, Any]] = origin.get("members", ())
    if not members:
        yield modality, origin
    for number, member in enumerate(members, start=1):
        yield f"{modality} ({number} of {len(members)})", member


def _of_settings(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the settings of a store that keeps no provenance tell of it."""
    encoder = settings.get("encoder", settings)
    if members := encoder.get("members"):
        return {"members": [_of_settings({"encoder": member}) for member in members]}
    weights = encoder.get("weights")
    hub = weights if isinstance(weights, Mapping) and "model" in weights else {}
    return {
        "model": hub.get("model") or encoder.get("name") or encoder.get("type"),
        "commit": hub.get("commit"),
        "weights": weights,
        "precision": encoder.get("precision") or encoder.get("dtype"),
    }


def _model(origin: Mapping[str, Any]) -> str:
    return str(origin.get("model") or UNKNOWN)


def _revision(origin: Mapping[str, Any]) -> str:
    revision, commit = origin.get("revision"), origin.get("commit")
    if not commit:
        return UNKNOWN
    short = str(commit)[:_SHOWN_DIGITS]
    return f"{revision}, commit {short}" if revision and revision != commit else f"commit {short}"


def _weights(origin: Mapping[str, Any]) -> str:
    found = _HASH.findall(json.dumps(origin.get("weights") or {}))
    hashes = [text[:_SHOWN_DIGITS] for text in found if text != origin.get("commit")]
    if not hashes:
        return "of that commit" if origin.get("commit") else "none"
    return ", ".join(hashes[:2]) + (f" and {len(hashes) - 2} more" if len(hashes) > 2 else "")


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
