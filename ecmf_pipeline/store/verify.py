"""Verify a store: read all of it, list damaged and superfluous data, and repair damage on request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ecmf_pipeline.core.console import format_count, progress
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
from ecmf_pipeline.store.state import (
    DigestLookup,
    InputDigests,
    RowState,
    folder_size,
    no_manifest,
    row_states,
    settings_groups,
)
from ecmf_pipeline.store.writer import unpack_rows

_SUPERFLUOUS = {
    RowState.DUPLICATE: (Kind.DUPLICATES, "a later row has the same clip and input"),
    RowState.REPLACED: (Kind.REPLACED, "computed from earlier inputs; the current inputs have features too"),
    RowState.OUTDATED: (Kind.OUTDATED, "computed from earlier inputs; the current inputs have no features (yet)"),
    RowState.ABSENT: (Kind.ABSENT, "the clips are no longer in the manifest"),
}
"""Finding of each state in which rows do not count."""


@dataclass
class Verification:
    """Result of verifying a store.

    Attributes:
        root: The store.
        parts: Number of parts that were read.
        clips: Number of clips with undamaged rows, summed over the settings groups.
        bytes: Size of the parts that were read.
        findings: What was found: damage first, otherwise in the order of the store.
    """

    root: Path
    parts: int = 0
    clips: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def damage(self) -> list[Finding]:
        """Findings that make the store unreadable or its values wrong."""
        return [finding for finding in self.findings if finding.kind.is_damage]


def verify_store(root: Path, digest_lookup: DigestLookup = no_manifest) -> Verification:
    """Read every byte of a store, part by part, and list damaged and superfluous data. Nothing is changed.

    Args:
        root: The store.
        digest_lookup: Returns the digests of the current inputs.

    Raises:
        MissingInput: If there is no such folder.
        StoreError: If the store has another format.
    """
    if not root.is_dir():
        raise MissingInput(
            f"{root} does not exist", "give the path of a feature store, such as data/features/audio.zarr"
        )
    verification = Verification(root)
    groups = list(settings_groups(root))
    verification.findings.extend(_root_findings(root, groups))
    for name in groups:
        findings = list(settings_findings(root, root / name))
        verification.findings.extend(findings)
        if all(finding.kind is not Kind.FOREIGN for finding in findings):
            _verify_group(verification, name, digest_lookup)
    verification.findings.extend(_adjacent_findings(root))
    verification.findings.sort(key=lambda finding: not finding.kind.is_damage)
    return verification


def _verify_group(verification: Verification, fingerprint: str, digest_lookup: DigestLookup) -> None:
    root, folder = verification.root, verification.root / fingerprint
    parts = read_parts(folder, fingerprint)
    for name, error in parts.damaged.items():
        verification.findings.append(_attribute_finding(root, folder / name, fingerprint, error))
    settings, check = _part_check(root, folder)
    damaged = set()
    for name, part in progress(parts.intact.items(), f"verify {root.stem}", unit="part"):
        try:
            findings = list(check(name, part))
        except (FileNotFoundError, MissingInput):
            message = "it was merged into another part during the verification"
            findings = [Finding(Kind.CHANGED, root, folder / name, message)]
        verification.findings.extend(findings)
        if any(finding.kind.is_damage for finding in findings):
            damaged.add(name)
        verification.parts += 1
        verification.bytes += folder_size(folder / name)
    undamaged = Parts({name: part for name, part in parts.intact.items() if name not in damaged})
    newest = undamaged.newest()
    verification.clips += len(newest)
    for name in parts.superseded:
        message = "it was merged into another part but not removed"
        verification.findings.append(Finding(Kind.SUPERSEDED, root, folder / name, message))
    verification.findings.extend(_row_findings(root, folder, undamaged, digest_lookup(settings, newest)))


def _part_check(root: Path, folder: Path) -> tuple[dict[str, Any], PartCheck]:
    """Return the settings of a group and the check of its parts.

    If the document of the group is damaged, the settings are empty and the check ignores width and type.
    """
    try:
        attributes = settings_attributes(folder)
    except (StoreError, MissingInput):
        return {}, PartCheck(root, folder, None, None)
    return attributes["settings"], PartCheck(root, folder, attributes["dim"], np.dtype(attributes["dtype"]))


def _attribute_finding(root: Path, folder: Path, fingerprint: str, error: StoreError) -> Finding:
    try:
        stored_fingerprint = group_attributes(folder).get("fingerprint", fingerprint)
        clips = len(group_attributes(folder).get("clip_id", ()))
    except InputError:
        return Finding(Kind.ATTRIBUTES, root, folder, error.message, None, folder)
    kind = Kind.ATTRIBUTES if stored_fingerprint == fingerprint else Kind.FOREIGN
    return Finding(kind, root, folder, error.message, clips, folder)


def _row_findings(root: Path, folder: Path, parts: Parts, digests: InputDigests | None) -> Iterator[Finding]:
    """Yield one finding for each state in which some rows do not count."""
    clips: dict[RowState, set[str]] = {state: set() for state in _SUPERFLUOUS}
    rows: Counter[RowState] = Counter()
    for name, states in row_states(parts.intact, digests).items():
        for clip_id, state in zip(parts.intact[name].clip_id, states, strict=True):
            if state is not RowState.COUNTS:
                rows[state] += 1
                clips[state].add(clip_id)
    for state, (kind, reason) in _SUPERFLUOUS.items():
        if rows[state]:
            message = f"{format_count(rows[state], 'row')}: {reason}"
            yield Finding(kind, root, folder, message, len(clips[state]))


def _root_findings(root: Path, groups: list[str]) -> Iterator[Finding]:
    document = root / "zarr.json"
    try:
        current = current_fingerprint(root)
    except StoreError as error:
        if _has_other_format(root):
            raise
        yield Finding(Kind.ROOT, root, document, error.message, movable=document)
    else:
        # A store without parts has no root document yet: the first part creates it.
        if current is None and any(part_names(root / group) for group in groups):
            yield Finding(Kind.ROOT, root, document, "it is missing")
        elif current is not None and current not in groups:
            message = f"its attribute `current` names the settings {current}, which the store does not have"
            yield Finding(Kind.ROOT, root, document, message, movable=document)
    yield from _stray_findings(root, root, {*groups, "zarr.json"})


def _has_other_format(root: Path) -> bool:
    try:
        version = group_attributes(root).get("ecmf_store")
    except StoreError:
        return False
    return isinstance(version, int) and version != FORMAT


def settings_findings(root: Path, folder: Path) -> Iterator[Finding]:
    """Yield the defects of the document of a settings group, and the stray files in its folder."""
    document = folder / "zarr.json"
    try:
        attributes = settings_attributes(folder)
    except (StoreError, MissingInput) as error:
        yield Finding(Kind.SETTINGS, root, document, error.message, movable=document if document.is_file() else None)
        return
    computed = fingerprint_of(attributes["settings"])
    if computed == attributes.get("fingerprint") != folder.name:
        message = f"it holds features of the settings {computed}; to keep them, rename the folder back to {computed}"
        yield Finding(Kind.FOREIGN, root, folder, message, movable=folder)
        return
    if not folder.name == computed == attributes.get("fingerprint"):
        message = f"its settings have the fingerprint {computed}, the folder is named {folder.name}"
        yield Finding(Kind.SETTINGS, root, document, message, movable=document)
    elif attributes["dim"] is None and any(folder.glob("part-*")):
        message = "its attribute `dim` is null although there are parts"
        yield Finding(Kind.SETTINGS, root, document, message, movable=document)
    known = {path.name for path in folder.glob("part-*") if path.is_dir()}
    yield from _stray_findings(root, folder, {*known, "zarr.json"})


def _stray_findings(root: Path, folder: Path, known: set[str]) -> Iterator[Finding]:
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            yield Finding(Kind.STRAY, root, path, "its name is not one of a store file")


def _adjacent_findings(root: Path) -> Iterator[Finding]:
    """Yield what interrupted runs and earlier repairs left next to the store."""
    for folder in sorted(spool_folder(root, "any").parent.glob("*")):
        batches = leftover_batches(folder)
        clips: set[str] = set()
        for path in batches:
            try:
                clips |= {row.clip_id for row in unpack_rows(path.read_bytes())}
            except FileNotFoundError:
                continue  # another run has added it to the store meanwhile
            except StoreError as error:
                yield Finding(Kind.BATCH, root, path, error.message, None, path)
        if clips:
            count = format_count(len(batches), "finished batch", "finished batches")
            yield Finding(Kind.LEFTOVERS, root, folder, f"{count} not yet in a part", len(clips))
    if damaged_folder(root).is_dir():
        yield Finding(Kind.SET_ASIDE, root, damaged_folder(root), "an earlier `store verify --mend` moved files there")


def mend(verification: Verification, known_settings: Mapping[str, Mapping[str, Any]]) -> dict[Path, Path]:
    """Move damaged parts out of the store, and rewrite damaged documents if their content is known.

    The caller must hold the lock of the store, and must have verified the store while holding it.

    Args:
        verification: Result of the verification.
        known_settings: The settings in params, by fingerprint.

    Returns:
        The new path of each file or folder that was moved.
    """
    moved: dict[Path, Path] = {}
    for finding in sorted(verification.damage, key=lambda finding: finding.kind is Kind.ROOT):  # the root comes last
        if finding.kind is Kind.SETTINGS:
            _mend_settings(finding, known_settings, moved)
            continue
        _move_out(finding, moved)
        if finding.kind is Kind.ROOT:
            _mend_root(verification.root, known_settings)
    return moved


def _mend_root(root: Path, known_settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Rewrite the root document if only one settings group can be current; otherwise the next extraction does."""
    groups = [name for name in settings_groups(root) if has_fingerprint(root, name)]
    candidates = [name for name in groups if name in known_settings] or groups
    if len(candidates) == 1:
        make_current(root, candidates[0])


def _mend_settings(finding: Finding, known_settings: Mapping[str, Mapping[str, Any]], moved: dict[Path, Path]) -> None:
    """Rewrite the document of a settings group from the settings in params and the shape and type of a part."""
    folder = finding.path.parent
    if folder.name not in known_settings:
        return
    for name in part_names(folder):
        try:
            values = read_array(folder / name / "values")
        except (StoreError, FileNotFoundError):
            continue
        _move_out(finding, moved)
        create_settings_group(finding.root, known_settings[folder.name], dim=values.shape[1], dtype=values.dtype.name)
        return


def _move_out(finding: Finding, moved: dict[Path, Path]) -> None:
    source = finding.movable
    if source is None or source in moved:
        return  # nothing to move, or another finding has moved it already
    destination = _unused_path(damaged_folder(finding.root) / source.relative_to(finding.root.parent))
    destination.parent.mkdir(parents=True, exist_ok=True)
    source.rename(destination)
    moved[source] = destination


def _unused_path(path: Path) -> Path:
    """Return the path, with a number appended if it exists."""
    unused, number = path, 2
    while unused.exists():
        unused, number = path.with_name(f"{path.name}-{number}"), number + 1
    return unused
