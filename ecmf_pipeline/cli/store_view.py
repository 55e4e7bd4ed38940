"""What the project around a store says of it: its manifest, transcripts and params, as far as they are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, Modality, read_manifest
from ecmf_pipeline.core.errors import MissingInput, ModelError
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.core.formatting import counted, size
from ecmf_pipeline.core.locks import exclusive
from ecmf_pipeline.core.progress import say
from ecmf_pipeline.core.transcripts import ClipText, read_texts
from ecmf_pipeline.encoders.config import settings_of_imported
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.plan import Reading, branch_settings, input_digests
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.store.damage import Finding
from ecmf_pipeline.store.format import lock_path
from ecmf_pipeline.store.state import Holding, in_words, list_store
from ecmf_pipeline.store.verify import Verification, mend, verify_store

_DEPTH = len(paths.features(Modality.AUDIO).parts)


@dataclass(frozen=True)
class StoreProject:
    """A store, and the project around it.

    Attributes:
        root: The store.
        modality: Which; None where the store does not stand in its place in a project.
        clips: The manifest; None where there is none.
        texts: Transcripts by clip id; None where there are none.
        params: None where there are none, or the project is not the current directory's (their paths start there).
    """

    root: Path
    modality: Modality | None = None
    clips: Sequence[Clip] | None = None
    texts: Mapping[str, ClipText] | None = None
    params: Params | None = None

    @property
    def part_size(self) -> int:
        """Clips in one part."""
        return (self.params.extract if self.params else ExtractConfig()).part_size

    def present(self, settings: Mapping[str, Any], newest: Mapping[str, str]) -> dict[str, str | None] | None:
        """The digest of each clip's present input, None for clips without one; see `store.standing.Present`."""
        if self.clips is None or self.modality is None:
            return None
        if settings_of_imported(settings):
            return {clip.clip_id: newest.get(clip.clip_id) for clip in self.clips}
        if self.modality is Modality.TEXT and self.texts is None:
            return None
        reading = Reading.of_settings(settings)
        if reading.face_crops and not any(clip.face_path for clip in self.clips):
            return None  # the manifest was made without looking for them
        digests = input_digests(self.modality, self.clips, self.texts or {}, reading)
        return {clip.clip_id: digests.get(clip.clip_id) for clip in self.clips}

    def settings_in_use(self) -> dict[str, Mapping[str, Any]] | None:
        """The settings that params ask for, by fingerprint; none when the modality is not in use.

        Returns:
            None where that cannot be told: no params, or no weights.
        """
        if self.params is None or self.modality is None:
            return None
        if self.modality not in self.params.extract.encoders:
            return {}
        encoder = self.params.encoder_of(self.modality)
        try:
            settings = branch_settings(self.modality, encoder, self.params.media, self.params.faces)
        except ModelError:
            return None
        return {fingerprint(settings): settings}


def project_of(root: Path) -> StoreProject:
    """Find the project in which a store stands.

    Args:
        root: The ``*.zarr`` folder.

    Raises:
        InputError: When the project's manifest, transcripts or params are there, and damaged.
    """
    resolved = root.resolve()
    modality = next((modality for modality in Modality if modality.value == root.stem), None)
    if modality is None or len(resolved.parts) <= _DEPTH:
        return StoreProject(root)
    folder = resolved.parents[_DEPTH - 1]
    if resolved != folder / paths.features(modality):
        return StoreProject(root)
    manifest, texts, here = folder / paths.MANIFEST, folder / paths.REWRITES, folder == Path.cwd().resolve()
    return StoreProject(
        root,
        modality,
        read_manifest(manifest) if manifest.is_file() else None,
        read_texts(texts) if modality is Modality.TEXT and texts.is_file() else None,
        load_params() if here and paths.PARAMS.is_file() else None,
    )


def stores(roots: Sequence[Path]) -> list[Path]:
    """The stores that a command is to work on: those named, else all of the current directory's project.

    Raises:
        MissingInput: When there is none, or one of those named is missing.
    """
    for path in roots:
        if not path.is_dir():
            raise MissingInput(f"{path} is missing", f"name a feature store, such as {paths.features(Modality.AUDIO)}")
    found = list(roots) or sorted(path for path in paths.DATA.glob("features/*.zarr") if path.is_dir())
    if not found:
        raise MissingInput(
            f"there are no feature stores in {paths.DATA / 'features'}",
            "change into a project folder and run `ecmf-pipe extract`, or `dvc pull`; or name a store",
        )
    return found


_COLUMNS = (
    "fingerprint",
    "encoder",
    "current",
    "in use",
    "dim",
    "dtype",
    "clips",
    "rows",
    "parts",
    "size",
    "of the manifest",
)


def list_stores(roots: Sequence[Path]) -> None:
    """Print one line for each settings group of some stores.

    Args:
        roots: The stores; none: all of the project.

    Raises:
        MissingInput: When there is none.
    """
    for root in stores(roots):
        project = project_of(root)
        in_use = project.settings_in_use()
        holdings = list(list_store(root, project.present))
        say(f"{root}:" if holdings else f"{root}: empty")
        table = [_COLUMNS, *(_cells(holding, in_use) for holding in holdings)]
        widths = [max(len(row[column]) for row in table) for column in range(len(_COLUMNS))]
        for row in table if holdings else []:
            say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for holding in holdings:
            _say_where_from(holding)
            _say_what_is_amiss(holding)


def _cells(holding: Holding, in_use: object) -> tuple[str, ...]:
    covered = "unknown" if holding.present is None else f"{holding.present} of {holding.wanted}"
    return (
        holding.fingerprint,
        holding.encoder,
        "yes" if holding.is_current else "no",
        "unknown" if not isinstance(in_use, dict) else "yes" if holding.fingerprint in in_use else "no",
        "unknown" if holding.dim is None else str(holding.dim),
        holding.dtype or "unknown",
        str(holding.clips),
        str(holding.rows),
        str(holding.parts),
        size(holding.bytes),
        covered,
    )


def _say_where_from(holding: Holding) -> None:
    if origin := in_words(holding.provenance):
        say(f"  {holding.fingerprint}: {origin}")
    for versions in holding.versions:
        with_what = ", ".join(f"{library} {version}" for library, version in versions.items())
        say(f"  {holding.fingerprint}: computed with {with_what or 'versions that nobody noted (some parts)'}")


def _say_what_is_amiss(holding: Holding) -> None:
    if holding.damaged:
        what = f"{counted(holding.damaged, 'part')} damaged: see `ecmf-pipe store verify {holding.root}`"
        say(f"  {holding.fingerprint}: {what}")
    if holding.leftovers:
        what = counted(holding.leftovers, "finished batch", "finished batches")
        say(f"  {holding.fingerprint}: {what} in no part yet: of a run that is under way, or was killed")


SHOWN = 20
"""Findings of one kind that are listed one by one."""


def verify(roots: Sequence[Path], *, mends: bool = False) -> bool:
    """Verify some stores, and print what was found.

    Args:
        roots: The stores; none: all of the project.
        mends: Whether damaged parts are moved out of the store, so that the next extraction computes their clips again.

    Returns:
        Whether all of them are sound (after mending).

    Raises:
        MissingInput: When there is none.
        StoreBusy: When another run writes to one that is to be mended.
    """
    sound = True
    for root in stores(roots):
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
