"""Run the commands of `ecmf-pipe store` and print what they did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.console import echo, format_bytes, format_count
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.core.files import exclusive
from ecmf_pipeline.corpora.listing import naming_some
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
from ecmf_pipeline.store import FeatureStore, StoreWriter, make_current
from ecmf_pipeline.store.compact import Compaction, compact, drop_settings
from ecmf_pipeline.store.damage import Finding
from ecmf_pipeline.store.format import lock_path
from ecmf_pipeline.store.state import Holding, RowState, in_words, list_store
from ecmf_pipeline.store.verify import Verification, mend, verify_store

SHOWN = 20
"""Findings of one kind, and bad arrays, that are listed one by one."""
_DROPPED = {
    RowState.REPLACED: "superseded",
    RowState.DUPLICATE: "duplicate",
    RowState.ABSENT: "of clips that the manifest no longer has",
}


def list_stores(roots: Sequence[Path]) -> None:
    """Print one line for each settings group of the stores named (none: all of the project).

    Raises:
        MissingInput: When there is none.
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
            _say_where_from(holding)
            _say_what_is_amiss(holding)


def _cells(holding: Holding, in_use: object) -> dict[str, str]:
    """What is shown of a settings group, by heading."""
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


def _say_where_from(holding: Holding) -> None:
    if origin := in_words(holding.provenance):
        echo(f"  {holding.fingerprint}: {origin}")
    for versions in holding.versions:
        with_what = ", ".join(f"{library} {version}" for library, version in versions.items())
        echo(f"  {holding.fingerprint}: computed with {with_what or 'versions that nobody noted (some parts)'}")


def _say_what_is_amiss(holding: Holding) -> None:
    if holding.damaged:
        what = f"{format_count(holding.damaged, 'part')} damaged: see `ecmf-pipe store verify {holding.root}`"
        echo(f"  {holding.fingerprint}: {what}")
    if holding.leftovers:
        what = format_count(holding.leftovers, "finished batch", "finished batches")
        echo(f"  {holding.fingerprint}: {what} in no part yet: of a run that is under way, or was killed")


def verify(roots: Sequence[Path], *, mends: bool = False) -> bool:
    """Verify the stores named (none: all of the project), and print what was found.

    Args:
        roots: The stores.
        mends: Whether damaged parts are moved out of the store, so that the next extraction computes their clips again.

    Returns:
        Whether all of them are sound (after mending).

    Raises:
        MissingInput: When there is none.
        StoreBusy: When another run writes to one that is to be mended.
    """
    sound = True
    for root in find_stores(roots):
        project = project_of(root)
        if mends:
            with exclusive(lock_path(root), str(root)):
                found = _mended(project)
        else:
            found = verify_store(root, project.present)
            _show(found)
        sound = sound and not found.damage
    return sound


def _mended(project: StoreProject) -> Verification:
    found = verify_store(project.root, project.present)
    _show(found)
    if not found.damage:
        return found
    moved = mend(found, project.settings_in_use() or {})
    for old, new in moved.items():
        echo(f"  moved {old} to {new}")
    after = verify_store(project.root, project.present)
    left = f"{format_count(len(after.damage), 'finding')} left, see above" if after.damage else "all else is sound"
    echo(f"  {format_count(len(moved), 'thing')} moved, none deleted; {left}")
    return after


def _show(found: Verification) -> None:
    notes = len(found.findings) - len(found.damage)
    said = [format_count(len(found.damage), "damage", "damages")] if found.damage else ["sound"]
    said += [format_count(notes, "note")] if notes else []
    held = f"{format_count(found.parts, 'part')}, {found.clips} clips, {format_bytes(found.bytes)}"
    echo(f"{found.root}: {held}: {', '.join(said)}")
    for _, findings in groupby(found.findings, key=lambda finding: finding.kind):
        _show_kind(list(findings))


def _show_kind(findings: list[Finding]) -> None:
    for finding in findings[:SHOWN]:
        echo(f"  {finding}")
    if len(findings) > SHOWN:
        echo(f"  {findings[0].kind.value}: {len(findings) - SHOWN} more")
    echo(f"    mend: {findings[0].mend}")


def compact_stores(roots: Sequence[Path], *, drop_absent: bool = False, drop_other_settings: bool = False) -> None:
    """Compact the stores named (none: all of the project), and print what it gained.

    Args:
        roots: The stores.
        drop_absent: Whether rows of clips that the manifest no longer has are dropped too.
        drop_other_settings: Whether features of settings that are not in use are removed.

    Raises:
        MissingInput: When there is no store, or no manifest where one is asked for.
        StoreBusy: When another run writes to a store.
        StoreError: When a store is damaged; it was not changed then.
    """
    for root in find_stores(roots):
        project = project_of(root)
        holdings = list(list_store(root))
        if not holdings:
            echo(f"compact {root}: empty, nothing to do")
            continue
        if drop_absent and project.clips is None:
            raise MissingInput(
                f"--drop-absent: {root} stands in no project with a manifest, which would tell the clips",
                "run `ecmf-pipe index` first, or leave the option out",
            )
        others = other_settings(project, holdings) if drop_other_settings else []
        written = sum(
            _compact(project, holding, drop_absent=drop_absent) for holding in holdings if holding not in others
        )
        kept = next(holding.fingerprint for holding in holdings if holding not in others)
        for holding in others:
            with StoreWriter(root, kept) as writer:
                drop_settings(writer, holding.fingerprint)
            echo(
                f"compact {root} {holding.fingerprint} ({holding.encoder}): removed, its settings are not in use: "
                f"{holding.clips} clips, {format_bytes(holding.bytes)}"
            )
        if others:
            make_current(root, kept)
        if written:
            echo(f"  parts are immutable: the next `dvc push` sends the {format_bytes(written)} of new ones")


def _compact(project: StoreProject, holding: Holding, *, drop_absent: bool) -> int:
    with StoreWriter(project.root, holding.fingerprint) as writer:
        done = compact(writer, project.present, part_size=project.part_size, drop_absent=drop_absent)
        adopted = writer.adopted
    what = f"compact {project.root} {holding.fingerprint} ({holding.encoder})"
    if adopted:
        echo(f"{what}: {format_count(adopted, 'row')} taken up that a killed run had left")
    echo(f"{what}: {_gain(done)}")
    return done.written


def _gain(done: Compaction) -> str:
    if done.parts[0] == done.parts[1] and not done.written:
        return f"{format_count(done.parts[0], 'part')}, nothing to do"
    dropped = [f"{done.dropped[state]} {what}" for state, what in _DROPPED.items() if done.dropped[state]]
    return (
        f"{done.parts[0]} -> {format_count(done.parts[1], 'part')}, "
        f"{format_bytes(done.bytes[0])} -> {format_bytes(done.bytes[1])}; rows dropped: {', '.join(dropped) or 'none'}"
    )


def export(root: Path, *, file_format: FileFormat, level: Level, out: Path) -> None:
    """Write the features in use of one store.

    Where the store stands in a project, those of the manifest's clips as they are now; else the newest of every clip.
    """
    store = FeatureStore.open(root)
    present = project_of(root).present(store.settings, store.newest())
    digests = None if present is None else {clip_id: digest for clip_id, digest in present.items() if digest}
    report = export_features(store, out, file_format=file_format, level=level, digests=digests)
    echo(
        f"export: {report.clips} clips of {root} ({store.dim}-d) in {out}; {report.left_out} left out, which the "
        "manifest no longer has as they were"
    )


def import_into_store(path: Path, *, modality: Modality, encoder: str) -> bool:
    """Import features of the manifest's clips into the modality's store, and print what became of them.

    Returns:
        Whether all arrays of clips could be used.

    Raises:
        ParamsError: When params.yaml has an encoder of that name that computes its features.
        InputError: When nothing in ``path`` can be used.
    """
    params = load_params()
    report = import_encoder(params, path, modality=modality, encoder=encoder)
    for line in (*_lines(report, f"import {modality.value} {encoder}"), *_params_to_add(params, modality, encoder)):
        echo(line)
    return not report.bad


def _lines(report: ImportReport, what: str) -> list[str]:
    shown = list(report.bad.items())[:SHOWN]
    return [
        f"{what}: {report.new} new, {report.changed} changed, {report.reused} reused, {len(report.bad)} bad "
        f"({report.dim}-d)",
        *_some(report.missing, "clips of the manifest have none, and are absent"),
        *_some(report.blank, "hold nothing but zeros (the baseline's sign that it found nothing), and are absent"),
        *_some(report.extra, "names are of no clip of the manifest, and were not imported"),
        *_some(report.passed_over, "files beside them are no features"),
        *(f"  bad: {clip_id!r}: {why}" for clip_id, why in shown),
        *([f"  bad: {len(report.bad) - SHOWN} more"] if len(report.bad) > SHOWN else []),
    ]


def _some(names: list[str], what: str) -> list[str]:
    return [f"  {len(names)} {what}: {naming_some(names)}"] if names else []


def _params_to_add(params: Params, modality: Modality, encoder: str) -> list[str]:
    """What params.yaml still lacks for these features to be used."""
    name = json.dumps(encoder) if encoder[0] in "-.0123456789" else encoder
    lacking = []
    if encoder not in params.encoders:
        lacking.append(f"  under encoders:          {name}: {{type: imported}}")
    if not uses_encoder(params, modality, encoder):
        lacking.append(f"  under extract.encoders:  {modality.value}: {name}")
    return ["to use them, params.yaml must say:", *lacking] if lacking else []
