"""Takes what is damaged out of a store, so that the next run computes it again. Nothing is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecmf_pipeline.errors import StoreError
from ecmf_pipeline.store.findings import Finding, Kind, damaged_folder
from ecmf_pipeline.store.format import create_settings_group, has_fingerprint, make_current
from ecmf_pipeline.store.parts import part_names, read_array
from ecmf_pipeline.store.standing import settings_groups
from ecmf_pipeline.store.verify import Verification


def mend(verification: Verification, known: Mapping[str, Mapping[str, Any]]) -> dict[Path, Path]:
    """Set damaged parts aside and write damaged documents anew where their content is known.

    Who calls holds the store's lock, and verified the store while holding it.

    Args:
        verification: What was found.
        known: The settings that params ask for, by fingerprint.

    Returns:
        Where each thing that was moved stands now.
    """
    root = verification.root
    moved: dict[Path, Path] = {}
    for finding in verification.damage:
        if finding.kind is Kind.SETTINGS:
            _mend_settings(finding, known, moved)
        elif finding.kind is not Kind.ROOT:
            _move_aside(finding, moved)
    for finding in verification.damage:
        if finding.kind is Kind.ROOT:
            _move_aside(finding, moved)
            _mend_root(root, known)
    return moved


def _mend_root(root: Path, known: Mapping[str, Mapping[str, Any]]) -> None:
    """Name the settings in use again; where that cannot be told, the next extraction does."""
    groups = [name for name in settings_groups(root) if has_fingerprint(root, name)]
    wanted = [name for name in groups if name in known] or groups
    if len(wanted) == 1:
        make_current(root, wanted[0])


def _mend_settings(finding: Finding, known: Mapping[str, Mapping[str, Any]], moved: dict[Path, Path]) -> None:
    """Write a settings group's document anew: params know its settings, and a part tells the rest."""
    folder = finding.path.parent
    if folder.name not in known:
        return
    for name in part_names(folder):
        try:
            values = read_array(folder / name / "values")
        except (StoreError, FileNotFoundError):
            continue
        _move_aside(finding, moved)
        create_settings_group(finding.root, known[folder.name], dim=values.shape[1], dtype=values.dtype.name)
        return


def _move_aside(finding: Finding, moved: dict[Path, Path]) -> None:
    source = finding.aside
    if source is None or source in moved:
        return  # another finding had it moved already
    place = _free(damaged_folder(finding.root) / source.relative_to(finding.root.parent))
    place.parent.mkdir(parents=True, exist_ok=True)
    source.rename(place)
    moved[source] = place


def _free(place: Path) -> Path:
    """A name that nothing has yet."""
    free, number = place, 2
    while free.exists():
        free, number = place.with_name(f"{place.name}-{number}"), number + 1
    return free
