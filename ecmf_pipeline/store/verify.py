"""Reads a store whole and finds what is damaged or superfluous; changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ecmf_pipeline.core.console import progress
from ecmf_pipeline.core.errors import InputError, MissingInput, StoreError
from ecmf_pipeline.core.files import fingerprint as fingerprint_of
from ecmf_pipeline.runner.step import leftover_batches
from ecmf_pipeline.store.damage import Finding, Kind, PartCheck, damaged_folder
from ecmf_pipeline.store.format import (
    FORMAT,
    Parts,
    create_settings_group,
    current_fingerprint,
    group_attributes,
    has_fingerprint,
    make_current,
    part_names,
    read_array,
    read_parts,
    settings_attributes,
    spool_folder,
)
from ecmf_pipeline.store.state import Digests, Present, RowState, no_manifest, row_states, settings_groups, size_of
from ecmf_pipeline.store.writer import unpack_rows

_ROWS = {
    RowState.DUPLICATE: (Kind.DUPLICATES, "the same clip and input stand in more than one place"),
    RowState.REPLACED: (Kind.REPLACED, "of former inputs, beside those of the present ones"),
    RowState.OUTDATED: (Kind.OUTDATED, "of former inputs, the present ones are not computed yet (or there are none)"),
    RowState.ABSENT: (Kind.ABSENT, "of clips that the manifest no longer has"),
}


@dataclass
class Verification:
    """What was read, and what was found.

    Attributes:
        root: The store.
        parts: Parts that were read.
        clips: Clips whose rows are sound, over all settings.
        bytes: Bytes of the parts that were read.
        findings: Damage first, else in the order of the store.
    """

    root: Path
    parts: int = 0
    clips: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def damage(self) -> list[Finding]:
        """Those findings that hinder reading, or falsify it."""
        return [finding for finding in self.findings if finding.kind.is_damage]


def verify_store(root: Path, present: Present = no_manifest) -> Verification:
    """Read every byte of a store, one part after another.

    Raises:
        MissingInput: When there is no such folder.
        StoreError: When the store has another format.
    """
    if not root.is_dir():
        raise MissingInput(f"{root} is missing", "name a feature store, such as data/features/audio.zarr")
    found = Verification(root)
    groups = list(settings_groups(root))
    found.findings.extend(_root_findings(root, groups))
    for name in groups:
        here = list(settings_findings(root, root / name))
        found.findings.extend(here)
        if all(finding.kind is not Kind.FOREIGN for finding in here):
            _verify_group(found, name, present)
    found.findings.extend(_beside(root))
    found.findings.sort(key=lambda finding: not finding.kind.is_damage)
    return found


def _verify_group(found: Verification, fingerprint: str, present: Present) -> None:
    root, folder = found.root, found.root / fingerprint
    parts = read_parts(folder, fingerprint)
    for name, error in parts.damaged.items():
        found.findings.append(_attribute_finding(root, folder / name, fingerprint, error))
    settings, check = _check_of(root, folder)
    damaged = set()
    for name, part in progress(parts.sound.items(), f"verify {root.stem}", unit="part"):
        try:
            here = list(check(name, part))
        except (FileNotFoundError, MissingInput):
            here = [Finding(Kind.MOVED, root, folder / name, "it was merged into another part while this was running")]
        found.findings.extend(here)
        if any(finding.kind.is_damage for finding in here):
            damaged.add(name)
        found.parts += 1
        found.bytes += size_of(folder / name)
    whole = Parts({name: part for name, part in parts.sound.items() if name not in damaged})
    newest = whole.newest()
    found.clips += len(newest)
    for name in parts.superseded:
        message = "merged into another part, and not removed"
        found.findings.append(Finding(Kind.SUPERSEDED, root, folder / name, message))
    found.findings.extend(_row_findings(root, folder, whole, present(settings, newest)))


def _check_of(root: Path, folder: Path) -> tuple[dict[str, Any], PartCheck]:
    """The settings of a group, and what checks its parts; of a damaged group all that does not need its document."""
    try:
        attributes = settings_attributes(folder)
    except (StoreError, MissingInput):
        return {}, PartCheck(root, folder, None, None)
    return attributes["settings"], PartCheck(root, folder, attributes["dim"], np.dtype(attributes["dtype"]))


def _attribute_finding(root: Path, folder: Path, fingerprint: str, error: StoreError) -> Finding:
    try:
        made_with = group_attributes(folder).get("fingerprint", fingerprint)
        clips = len(group_attributes(folder).get("clip_id", ()))
    except InputError:
        return Finding(Kind.ATTRIBUTES, root, folder, error.message, None, folder)
    kind = Kind.ATTRIBUTES if made_with == fingerprint else Kind.FOREIGN
    return Finding(kind, root, folder, error.message, clips, folder)


def _row_findings(root: Path, folder: Path, parts: Parts, digests: Digests | None) -> Iterator[Finding]:
    """One finding for each way in which rows are superfluous."""
    clips: dict[RowState, set[str]] = {state: set() for state in _ROWS}
    rows: Counter[RowState] = Counter()
    for name, states in row_states(parts.sound, digests).items():
        for clip_id, state in zip(parts.sound[name].clip_id, states, strict=True):
            if state is not RowState.COUNTS:
                rows[state] += 1
                clips[state].add(clip_id)
    for state, (kind, what) in _ROWS.items():
        if rows[state]:
            yield Finding(kind, root, folder, f"{rows[state]} rows {what}", len(clips[state]))


def _root_findings(root: Path, groups: list[str]) -> Iterator[Finding]:
    document = root / "zarr.json"
    try:
        current = current_fingerprint(root)
    except StoreError as error:
        if _has_other_format(root):
            raise
        yield Finding(Kind.ROOT, root, document, error.message, aside=document)
    else:
        if current is None and any(part_names(root / group) for group in groups):  # else no run came that far
            yield Finding(Kind.ROOT, root, document, "it is missing")
        elif current is not None and current not in groups:
            message = f"it names the settings {current}, which are not here"
            yield Finding(Kind.ROOT, root, document, message, aside=document)
    yield from _strays(root, root, {*groups, "zarr.json"})


def _has_other_format(root: Path) -> bool:
    try:
        version = group_attributes(root).get("ecmf_store")
    except StoreError:
        return False
    return isinstance(version, int) and version != FORMAT


def settings_findings(root: Path, folder: Path) -> Iterator[Finding]:
    """What is wrong with the document of a settings group, and what else stands in its folder."""
    document = folder / "zarr.json"
    try:
        attributes = settings_attributes(folder)
    except (StoreError, MissingInput) as error:
        yield Finding(Kind.SETTINGS, root, document, error.message, aside=document if document.is_file() else None)
        return
    told = fingerprint_of(attributes["settings"])
    if told == attributes.get("fingerprint") != folder.name:
        message = f"it holds features of the settings {told}: rename it back to keep them"
        yield Finding(Kind.FOREIGN, root, folder, message, aside=folder)
        return
    if not folder.name == told == attributes.get("fingerprint"):
        message = f"the settings in it have the fingerprint {told}, the folder is called {folder.name}"
        yield Finding(Kind.SETTINGS, root, document, message, aside=document)
    elif attributes["dim"] is None and any(folder.glob("part-*")):
        yield Finding(Kind.SETTINGS, root, document, "it tells no width, and there are parts", aside=document)
    known = {path.name for path in folder.glob("part-*") if path.is_dir()}
    yield from _strays(root, folder, {*known, "zarr.json"})


def _strays(root: Path, folder: Path, known: set[str]) -> Iterator[Finding]:
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            yield Finding(Kind.STRAY, root, path, "nothing of a store is called so")


def _beside(root: Path) -> Iterator[Finding]:
    """What killed runs and earlier mending have left beside the store."""
    for folder in sorted(spool_folder(root, "any").parent.glob("*")):
        batches = leftover_batches(folder)
        clips: set[str] = set()
        for path in batches:
            try:
                clips |= {row.clip_id for row in unpack_rows(path.read_bytes())}
            except FileNotFoundError:
                continue  # taken up meanwhile
            except StoreError as error:
                yield Finding(Kind.BATCH, root, path, error.message, None, path)
        if clips:
            yield Finding(Kind.LEFTOVERS, root, folder, f"{len(batches)} finished batches, in no part yet", len(clips))
    if damaged_folder(root).is_dir():
        yield Finding(Kind.ASIDE, root, damaged_folder(root), "what an earlier `--mend` took out of the store")


def mend(verification: Verification, known: Mapping[str, Mapping[str, Any]]) -> dict[Path, Path]:
    """Set damaged parts aside and write damaged documents anew where their content is known.

    Who calls holds the store's lock, and verified the store while holding it.

    Args:
        verification: What was found.
        known: The settings that params ask for, by fingerprint.

    Returns:
        Where each thing that was moved stands now.
    """
    moved: dict[Path, Path] = {}
    for finding in sorted(verification.damage, key=lambda finding: finding.kind is Kind.ROOT):  # the root comes last
        if finding.kind is Kind.SETTINGS:
            _mend_settings(finding, known, moved)
            continue
        _move_aside(finding, moved)
        if finding.kind is Kind.ROOT:
            _mend_root(verification.root, known)
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
