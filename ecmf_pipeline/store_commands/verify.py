"""`ecmf-pipe store verify`: reads every byte of feature stores and says what is damaged, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from ecmf_pipeline.locks import exclusive
from ecmf_pipeline.progress import say
from ecmf_pipeline.store.findings import Finding
from ecmf_pipeline.store.format import lock_path
from ecmf_pipeline.store.mend import mend
from ecmf_pipeline.store.verify import Verification, verify_store
from ecmf_pipeline.store_commands.project import StoreProject, project_of, stores
from ecmf_pipeline.words import counted, size

SHOWN = 20
"""Findings of one kind that are listed one by one."""


def run(paths: Sequence[Path], *, mends: bool = False) -> bool:
    """Verify some stores, and print what was found.

    Args:
        paths: The stores; none: all of the project.
        mends: Whether damaged parts are moved out of the store, so that the next extraction computes their clips again.

    Returns:
        Whether all of them are sound (after mending).

    Raises:
        MissingInput: When there is none.
        StoreBusy: When another run writes to one that is to be mended.
    """
    sound = True
    for root in stores(paths):
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
        say(f"  moved {old} to {new}")
    after = verify_store(project.root, project.present)
    left = f"{counted(len(after.damage), 'finding')} left, see above" if after.damage else "all else is sound"
    say(f"  {counted(len(moved), 'thing')} moved, none deleted; {left}")
    return after


def _show(found: Verification) -> None:
    notes = len(found.findings) - len(found.damage)
    said = [counted(len(found.damage), "damage", "damages")] if found.damage else ["sound"]
    said += [counted(notes, "note")] if notes else []
    say(f"{found.root}: {counted(found.parts, 'part')}, {found.clips} clips, {size(found.bytes)}: {', '.join(said)}")
    for _, findings in groupby(found.findings, key=lambda finding: finding.kind):
        _show_kind(list(findings))


def _show_kind(findings: list[Finding]) -> None:
    for finding in findings[:SHOWN]:
        say(f"  {finding}")
    if len(findings) > SHOWN:
        say(f"  {findings[0].kind.value}: {len(findings) - SHOWN} more")
    say(f"    mend: {findings[0].mend}")
