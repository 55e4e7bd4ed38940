"""Report what ran: stages with their time and memory, stores, encoders' licences, seeds, parameters and versions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ecmf_pipeline.core.console import format_bytes
from ecmf_pipeline.core.weights import EMBEDDED_MODELS
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Collapsible,
    Heading,
    Notice,
    Paragraph,
    Section,
    Table,
    Verbatim,
    clean_text,
    corpus_text,
)
from ecmf_pipeline.report.inputs import ReportInput

_SECRET = re.compile(r"(api_?key|secret|password|token)$", re.IGNORECASE)
_LICENCES = {
    **{model.name: model.licence for model in EMBEDDED_MODELS},
    "egemaps": "audEERING's: free for research and education, not for products",
}
_LONG_SECONDS = 100


def runtime_section(report: ReportInput) -> Section:
    """Show the stages, stores, seeds, corpus folder, parameters and package versions."""
    root = report.corpus.get("root") or UNKNOWN
    seeds = ", ".join(f"{key} {value}" for key, value in _seeds(report.params))
    text = yaml.safe_dump(_without_secrets(report.params), sort_keys=False, allow_unicode=True, width=100)
    rows = [[corpus_text(package), corpus_text(version)] for package, version in sorted(report.versions.items())]
    version = report.versions.get("ecmf-pipeline")
    blocks: list[Block] = [
        Paragraph(
            f"Corpus folder: {clean_text(str(root))}."
            + (f" Seeds: {seeds}." if seeds else "")
            + (f" ecmf-pipeline {clean_text(version)}." if version else "")
        ),
        *_stages(report),
        *_disk(report),
        Collapsible("Parameters of the run", [Verbatim(clean_text(text))]),
        Collapsible("Package versions", [Table("Package versions", ["Package", "Version"], rows)]),
    ]
    return Section("runtime", "What ran", blocks)


def licence_of(*names: str) -> str:
    """Return the licence of an encoder that ships in a package, by its type or model; of others, where it is stated."""
    return next((_LICENCES[name] for name in names if name in _LICENCES), "see its model card")


def _stages(report: ReportInput) -> list[Block]:
    if not report.resources:
        return [Heading("Stages"), Notice("Time and memory of the stages are not recorded on this machine.")]
    runs = [(name, record["longest"], record["last"]) for name, record in report.resources.items()]
    rows = [
        [
            corpus_text(name, 80),
            _seconds(longest["seconds"]),
            _seconds(longest["cpu_seconds"]),
            format_bytes(longest["memory"]),
            format_bytes(longest["worker_memory"]) if longest["worker_memory"] else UNKNOWN,
            _seconds(last["seconds"]),
        ]
        for name, longest, last in sorted(runs, key=lambda run: -run[1]["cpu_seconds"])
    ]
    columns = ["Command", "#Time", "#CPU time", "#Memory", "#Memory of a worker", "#Last run"]
    caption = "The longest run of each stage on this machine; later runs reuse its results"
    return [Heading("Stages"), Table(caption, columns, rows)]


def _disk(report: ReportInput) -> list[Block]:
    if not report.disk:
        return []
    rows = [
        [corpus_text(name, 80), format_bytes(size)]
        for name, size in sorted(report.disk.items(), key=lambda item: -item[1])
    ]
    return [Collapsible("Disk space", [Table("Disk space of each store and folder", ["Path", "#Size"], rows)])]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < _LONG_SECONDS else f"{seconds / 60:,.1f} min"


def _seeds(params: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the seeds in params with their dotted keys."""
    for key, value in params.items() if isinstance(params, Mapping) else ():
        if key == "seed":
            yield f"{prefix}{key}", value
        else:
            yield from _seeds(value, f"{prefix}{key}.")


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
