"""Implement the commands of `ecmf-pipe store`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.console import echo, format_bytes, format_count
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.core.files import exclusive_lock
from ecmf_pipeline.corpora.listing import quote_names
from ecmf_pipeline.interop.export import export_features
from ecmf_pipeline.interop.feature_import import ImportReport
from ecmf_pipeline.interop.file_formats import FileFormat, Level
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages.shared.store_project import (
    StoreProject,
    find_stores,
    import_encoder,
    other_settings,
    project_of,
    uses_encoder,
)
from ecmf_pipeline.store import StoreWriter, make_current
from ecmf_pipeline.store.compact import Compaction, compact, drop_settings
from ecmf_pipeline.store.damage import Finding
from ecmf_pipeline.store.format import lock_path
from ecmf_pipeline.store.state import GroupSummary, RowState, format_provenance, list_store
from ecmf_pipeline.store.verify import Verification, mend, verify_store

SHOWN = 20
"""Maximum number of lines for findings of one kind, and for bad arrays."""
_DROPPED = {
    RowState.REPLACED: "superseded",
    RowState.DUPLICATE: "duplicate",
    RowState.ABSENT: "of clips no longer in the manifest",
}


def list_stores(roots: Sequence[Path]) -> None:
    """Print one line for each settings group of the given stores.

    Args:
        roots: Feature stores; empty: all stores of the project.

    Raises:
        MissingInput: If there is no store.
    """
    for root in find_stores(roots):
        project = project_of(root)
        in_use = project.settings_in_use()
        holdings = list(list_store(root, project.present))
        echo(f"{root}:" if holdings else f"{root}: empty")
        rows = [_cells(holding, in_use) for holding in holdings]
        table = [list(rows[0]), *(list(row.values()) for row in rows)] if rows else []
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for holding in holdings:
            _print_origin(holding)
            _print_problems(holding)


def _cells(holding: GroupSummary, in_use: object) -> dict[str, str]:
    """Return the table cells of a settings group, by column title."""
    covered = "unknown" if holding.present is None else f"{holding.present} of {holding.wanted}"
    return {
        "fingerprint": holding.fingerprint,
        "encoder": holding.encoder,
        "current": "yes" if holding.is_current else "no",
        "in use": "unknown" if not isinstance(in_use, dict) else "yes" if holding.fingerprint in in_use else "no",
        "dim": "unknown" if holding.dim is None else str(holding.dim),
        "dtype": holding.dtype or "unknown",
        "clips": str(holding.clips),
        "rows": str(holding.rows),
        "parts": str(holding.parts),
        "size": format_bytes(holding.bytes),
        "of the manifest": covered,
    }


def _print_origin(holding: GroupSummary) -> None:
    if origin := format_provenance(holding.provenance):
        echo(f"  {holding.fingerprint}: {origin}")
    for versions in holding.versions:
        libraries = ", ".join(f"{library} {version}" for library, version in versions.items())
        echo(f"  {holding.fingerprint}: computed with {libraries or 'unrecorded library versions (some parts)'}")


def _print_problems(holding: GroupSummary) -> None:
    if holding.damaged:
        parts = format_count(holding.damaged, "damaged part")
        echo(f"  {holding.fingerprint}: {parts}; for details run")
        echo(f"    ecmf-pipe store verify {holding.root}")
    if holding.leftovers:
        batches = format_count(holding.leftovers, "finished batch", "finished batches")
        echo(f"  {holding.fingerprint}: {batches} not yet in a part, from a run that is active or was killed")


def verify(roots: Sequence[Path], *, repair: bool = False) -> bool:
    """Verify the given stores and print the findings.

    Args:
        roots: Feature stores; empty: all stores of the project.
        repair: Whether to move damaged parts out of the store, so that the next extraction computes their clips again.

    Returns:
        Whether no store is damaged (after the repair).

    Raises:
        MissingInput: If there is no store.
        StoreBusy: If another run writes to a store that is to be repaired.
    """
    all_intact = True
    for root in find_stores(roots):
        project = project_of(root)
        if repair:
            with exclusive_lock(lock_path(root), str(root)):
                verification = _repair(project)
        else:
            verification = verify_store(root, project.present)
            _print_verification(verification)
        all_intact = all_intact and not verification.damage
    return all_intact


def _repair(project: StoreProject) -> Verification:
    """Move damaged parts out of a store; return the verification after that."""
    before = verify_store(project.root, project.present)
    _print_verification(before)
    if not before.damage:
        return before
    moved = mend(before, project.settings_in_use() or {})
    for old, new in moved.items():
        echo(f"  moved {old} to {new}")
    after = verify_store(project.root, project.present)
    rest = f"still damaged: {format_count(len(after.damage), 'finding')}" if after.damage else "the rest is intact"
    echo(f"  {format_count(len(moved), 'file or folder', 'files or folders')} moved, none deleted; {rest}")
    return after


def _print_verification(verification: Verification) -> None:
    damage, notes = len(verification.damage), len(verification.findings) - len(verification.damage)
    results = [f"damaged ({format_count(damage, 'finding')})"] if damage else ["intact"]
    results += [format_count(notes, "note")] if notes else []
    size = f"{format_count(verification.parts, 'part')}, {verification.clips} clips, {format_bytes(verification.bytes)}"
    echo(f"{verification.root}: {size}: {', '.join(results)}")
    for _, findings in groupby(verification.findings, key=lambda finding: finding.kind):
        _print_findings(list(findings))


def _print_findings(findings: list[Finding]) -> None:
    for finding in findings[:SHOWN]:
        echo(f"  {finding}")
    if len(findings) > SHOWN:
        echo(f"  ... and {len(findings) - SHOWN} more of this kind")
    echo(f"    hint: {findings[0].hint}")
    if findings[0].command:
        echo(f"      {findings[0].command}")


def compact_stores(roots: Sequence[Path], *, drop_absent: bool = False, drop_other_settings: bool = False) -> None:
    """Compact the given stores and print the result.

    Args:
        roots: Feature stores; empty: all stores of the project.
        drop_absent: Whether to drop rows of clips that are no longer in the manifest.
        drop_other_settings: Whether to remove features of settings that are not in use.

    Raises:
        MissingInput: If there is no store, or ``drop_absent`` is set and there is no manifest.
        StoreBusy: If another run writes to a store.
        StoreError: If a store is damaged; it is then not changed.
    """
    for root in find_stores(roots):
        project = project_of(root)
        holdings = list(list_store(root))
        if not holdings:
            echo(f"compact {root}: empty, nothing to do")
            continue
        if drop_absent and project.clips is None:
            raise MissingInput(
                f"--drop-absent: {root} is not in a project with a manifest",
                "leave the option out, or write the manifest",
                command="ecmf-pipe index",
            )
        unused = other_settings(project, holdings) if drop_other_settings else []
        written = sum(
            _compact(project, holding, drop_absent=drop_absent) for holding in holdings if holding not in unused
        )
        kept = next(holding.fingerprint for holding in holdings if holding not in unused)
        for holding in unused:
            with StoreWriter(root, kept) as writer:
                drop_settings(writer, holding.fingerprint)
            echo(
                f"compact {root} {holding.fingerprint} ({holding.encoder}): removed {holding.clips} clips, "
                f"{format_bytes(holding.bytes)}, of settings not in use"
            )
        if unused:
            make_current(root, kept)
        if written:
            echo(f"  parts are immutable: the next `dvc push` uploads {format_bytes(written)} of new parts")


def _compact(project: StoreProject, holding: GroupSummary, *, drop_absent: bool) -> int:
    with StoreWriter(project.root, holding.fingerprint) as writer:
        compaction = compact(writer, project.present, part_size=project.part_size, drop_absent=drop_absent)
        adopted = writer.adopted
    prefix = f"compact {project.root} {holding.fingerprint} ({holding.encoder})"
    if adopted:
        echo(f"{prefix}: {format_count(adopted, 'row')} recovered from a killed run")
    echo(f"{prefix}: {_compaction_text(compaction)}")
    return compaction.written


def _compaction_text(compaction: Compaction) -> str:
    if compaction.parts[0] == compaction.parts[1] and not compaction.written:
        return f"{format_count(compaction.parts[0], 'part')}, nothing to do"
    dropped = [f"{compaction.dropped[state]} {text}" for state, text in _DROPPED.items() if compaction.dropped[state]]
    return (
        f"{compaction.parts[0]} -> {format_count(compaction.parts[1], 'part')}, "
        f"{format_bytes(compaction.bytes[0])} -> {format_bytes(compaction.bytes[1])}; "
        f"rows dropped: {', '.join(dropped) or 'none'}"
    )


def export(root: Path, *, file_format: FileFormat, level: Level, out: Path) -> None:
    """Export the features in use of one store.

    In a project, features of the manifest's clips are exported if their input is unchanged. Elsewhere, the newest
    features of each clip are exported.

    Raises:
        StaleStore: If params.yaml of the project has other settings than the features in use.
    """
    project = project_of(root)
    store = project.open()
    present = project.present(store.settings, store.newest())
    digests = None if present is None else {clip_id: digest for clip_id, digest in present.items() if digest}
    report = export_features(store, out, file_format=file_format, level=level, digests=digests)
    echo(
        f"export: {report.clips} clips of {root} ({store.dim}-d) written to {out}; "
        f"{report.not_exported} left out because their input changed or is no longer in the manifest"
    )


def import_into_store(path: Path, *, modality: Modality, encoder: str) -> bool:
    """Import features of the manifest's clips into the store of a modality and print the result.

    Returns:
        Whether all arrays of the clips are usable.

    Raises:
        ParamsError: If params.yaml has an encoder of that name that computes its features.
        InputError: If ``path`` holds no usable features.
    """
    params = load_params()
    report = import_encoder(params, path, modality=modality, encoder=encoder)
    additions = _params_to_add(params, modality, encoder) if report.new or report.changed or report.reused else []
    for line in (*_lines(report, f"import {modality.value} {encoder}"), *additions):
        echo(line)
    return not report.bad


def _lines(report: ImportReport, prefix: str) -> list[str]:
    shown = list(report.bad.items())[:SHOWN]
    return [
        f"{prefix}: {report.new} new, {report.changed} changed, {report.reused} reused, {len(report.bad)} bad "
        f"({report.dim}-d)",
        *_listing(report.missing, "clips of the manifest without features, counted as absent"),
        *_listing(report.blank, "clips with zeros only (the baseline writes these if it finds no input), absent"),
        *_listing(report.extra, "names that are not in the manifest, not imported"),
        *_listing(report.skipped_names, "other files, which hold no features"),
        *(f"  bad: {clip_id!r}: {reason}" for clip_id, reason in shown),
        *([f"  ... and {len(report.bad) - SHOWN} more bad ones"] if len(report.bad) > SHOWN else []),
    ]


def _listing(names: list[str], description: str) -> list[str]:
    return [f"  {description}: {len(names)} ({quote_names(names)})"] if names else []


def _params_to_add(params: Params, modality: Modality, encoder: str) -> list[str]:
    """Return the lines to add to params.yaml before these features are used."""
    name = json.dumps(encoder) if encoder[0] in "-.0123456789" else encoder
    additions = []
    if encoder not in params.encoders:
        additions.append(f"  under encoders:          {name}: {{type: imported}}")
    if not uses_encoder(params, modality, encoder):
        additions.append(f"  under extract.encoders:  {modality.value}: {name}")
    return ["to use these features, add to params.yaml:", *additions] if additions else []
