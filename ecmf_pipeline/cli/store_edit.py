"""`ecmf-pipe store compact`: merges small parts and drops superfluous rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ecmf_pipeline.cli.store_view import StoreProject, project_of, stores
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality, read_manifest
from ecmf_pipeline.core.errors import InputError, MissingInput, ParamsError
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.core.formatting import counted, size
from ecmf_pipeline.core.progress import say
from ecmf_pipeline.corpora.listing import naming_some
from ecmf_pipeline.encoders.config import ImportedConfig
from ecmf_pipeline.extraction.plan import branch_settings
from ecmf_pipeline.interop.export import export_features
from ecmf_pipeline.interop.feature_import import ImportReport, import_features
from ecmf_pipeline.interop.feature_sources import open_source
from ecmf_pipeline.interop.file_formats import FileFormat, Level
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.store import FeatureStore, StoreWriter, make_current
from ecmf_pipeline.store.compact import Compaction, compact, drop_settings
from ecmf_pipeline.store.state import Holding, RowState, list_store

_DROPPED = {
    RowState.REPLACED: "superseded",
    RowState.DUPLICATE: "duplicate",
    RowState.ABSENT: "of clips that the manifest no longer has",
}


def compact_stores(roots: Sequence[Path], *, drop_absent: bool = False, drop_other_settings: bool = False) -> None:
    """Compact some stores, and print what it gained.

    Args:
        roots: The stores; none: all of the project.
        drop_absent: Whether rows of clips that the manifest no longer has are dropped too.
        drop_other_settings: Whether features of settings that are not in use are removed.

    Raises:
        MissingInput: When there is no store, or no manifest where one is asked for.
        StoreBusy: When another run writes to a store.
        StoreError: When a store is damaged; it was not changed then.
    """
    for root in stores(roots):
        project = project_of(root)
        holdings = list(list_store(root))
        if not holdings:
            say(f"compact {root}: empty, nothing to do")
            continue
        if drop_absent:
            _require_manifest(project)
        others = _others(project, holdings) if drop_other_settings else []
        written = sum(
            _compact(project, holding, drop_absent=drop_absent) for holding in holdings if holding not in others
        )
        kept = next(holding.fingerprint for holding in holdings if holding not in others)
        for holding in others:
            with StoreWriter(root, kept) as writer:
                drop_settings(writer, holding.fingerprint)
            say(
                f"compact {root} {holding.fingerprint} ({holding.encoder}): removed, its settings are not in use: "
                f"{holding.clips} clips, {size(holding.bytes)}"
            )
        if others:
            make_current(root, kept)
        if written:
            say(f"  parts are immutable: the next `dvc push` sends the {size(written)} of new ones")


def _compact(project: StoreProject, holding: Holding, *, drop_absent: bool) -> int:
    with StoreWriter(project.root, holding.fingerprint) as writer:
        done = compact(writer, project.present, part_size=project.part_size, drop_absent=drop_absent)
        adopted = writer.adopted
    what = f"compact {project.root} {holding.fingerprint} ({holding.encoder})"
    if adopted:
        say(f"{what}: {counted(adopted, 'row')} taken up that a killed run had left")
    say(f"{what}: {_gain(done)}")
    return done.written


def _gain(done: Compaction) -> str:
    if done.parts[0] == done.parts[1] and not done.written:
        return f"{counted(done.parts[0], 'part')}, nothing to do"
    dropped = [f"{done.dropped[state]} {what}" for state, what in _DROPPED.items() if done.dropped[state]]
    return (
        f"{done.parts[0]} -> {counted(done.parts[1], 'part')}, {size(done.bytes[0])} -> {size(done.bytes[1])}; "
        f"rows dropped: {', '.join(dropped) or 'none'}"
    )


def _require_manifest(project: StoreProject) -> None:
    if project.clips is None:
        raise MissingInput(
            f"--drop-absent: {project.root} stands in no project with a manifest, which would tell the clips",
            "run `ecmf-pipe index` first, or leave the option out",
        )


def _others(project: StoreProject, holdings: Sequence[Holding]) -> list[Holding]:
    """The settings groups that are not in use.

    Raises:
        InputError: When none of those that are here is in use: all would go.
    """
    in_use = project.settings_in_use()
    used = {holding.fingerprint for holding in holdings if holding.is_current} if in_use is None else set(in_use)
    if not any(holding.fingerprint in used and holding.parts for holding in holdings):
        raise InputError(
            f"--drop-other-settings: {project.root} holds no features of the settings in use, all would be removed",
            "run `ecmf-pipe extract` first, or remove the folder if that is what you want",
        )
    return [holding for holding in holdings if holding.fingerprint not in used]


SHOWN = 20
"""Bad arrays that are listed one by one."""


def import_into_store(path: Path, *, modality: Modality, encoder: str) -> bool:
    """Import features of the manifest's clips into the modality's store.

    Returns:
        Whether all arrays of clips could be used.

    Raises:
        ParamsError: When params.yaml has an encoder of that name that computes its features.
        InputError: When nothing in ``path`` can be used.
    """
    params = load_params()
    config = _config(params, encoder)
    clip_ids = [clip.clip_id for clip in read_manifest(paths.MANIFEST)]
    root = paths.features(modality)
    settings = branch_settings(modality, config, params.media, params.faces)
    with open_source(path) as source:
        report = import_features(source, clip_ids, root, settings, dtype=config.dtype)
    serves = params.extract.encoders.get(modality) in (encoder, (encoder,)) and encoder in params.encoders
    if serves:
        make_current(root, fingerprint(settings))
    for line in _lines(report, f"import {modality.value} {encoder}"):
        say(line)
    for line in _params_to_add(params, modality, encoder):
        say(line)
    return not report.bad


def _config(params: Params, encoder: str) -> ImportedConfig:
    """The encoder's params; those of a new one where params.yaml has none of that name."""
    if not re.fullmatch(r"[\w.-]+", encoder):
        raise ParamsError(f"--encoder {encoder!r} is no name", "use letters, digits, `_`, `-` and `.`")
    config = params.encoders.get(encoder, ImportedConfig()).named(encoder)
    if not isinstance(config, ImportedConfig):
        raise ParamsError(
            f"encoders.{encoder} of params.yaml computes its features: imported ones must not mix with them",
            "give another --encoder name",
        )
    return config


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
    if params.extract.encoders.get(modality) not in (encoder, (encoder,)):
        lacking.append(f"  under extract.encoders:  {modality.value}: {name}")
    return ["to use them, params.yaml must say:", *lacking] if lacking else []


def export(root: Path, *, file_format: FileFormat, level: Level, out: Path) -> None:
    """Write the features in use of one store.

    Where the store stands in a project, those of the manifest's clips as they are now; else the newest of every clip.
    """
    store = FeatureStore.open(root)
    present = project_of(root).present(store.settings, store.newest())
    digests = None if present is None else {clip_id: digest for clip_id, digest in present.items() if digest}
    report = export_features(store, out, file_format=file_format, level=level, digests=digests)
    say(
        f"export: {report.clips} clips of {root} ({store.dim}-d) in {out}; {report.left_out} left out, which the "
        "manifest no longer has as they were"
    )
