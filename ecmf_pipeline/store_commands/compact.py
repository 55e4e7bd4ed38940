"""`ecmf-pipe store compact`: merges small parts and drops superfluous rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ecmf_pipeline.errors import InputError, MissingInput
from ecmf_pipeline.progress import say
from ecmf_pipeline.store import StoreWriter, make_current
from ecmf_pipeline.store.compact import Compaction, compact, drop_settings
from ecmf_pipeline.store.listing import Holding, list_store
from ecmf_pipeline.store.standing import Standing
from ecmf_pipeline.store_commands.project import StoreProject, project_of, stores
from ecmf_pipeline.words import counted, size

_DROPPED = {
    Standing.REPLACED: "superseded",
    Standing.DUPLICATE: "duplicate",
    Standing.ABSENT: "of clips that the manifest no longer has",
}


def run(paths: Sequence[Path], *, drop_absent: bool = False, drop_other_settings: bool = False) -> None:
    """Compact some stores, and print what it gained.

    Args:
        paths: The stores; none: all of the project.
        drop_absent: Whether rows of clips that the manifest no longer has are dropped too.
        drop_other_settings: Whether features of settings that are not in use are removed.

    Raises:
        MissingInput: When there is no store, or no manifest where one is asked for.
        StoreBusy: When another run writes to a store.
        StoreError: When a store is damaged; it was not changed then.
    """
    for root in stores(paths):
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
    dropped = [f"{done.dropped[standing]} {what}" for standing, what in _DROPPED.items() if done.dropped[standing]]
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
