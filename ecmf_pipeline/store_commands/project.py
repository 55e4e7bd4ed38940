"""What the project around a store says of it: its manifest, transcripts and params, as far as they are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline import layout
from ecmf_pipeline.clips import Clip, Modality, read_manifest
from ecmf_pipeline.encoders.base import ClipText
from ecmf_pipeline.encoders.config import settings_of_imported
from ecmf_pipeline.errors import MissingInput, ModelError
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.plan import Reading, branch_settings, input_digests
from ecmf_pipeline.files import fingerprint
from ecmf_pipeline.params import Params, load_params
from ecmf_pipeline.texts import read_texts

_DEPTH = len(layout.features(Modality.AUDIO).parts)


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
    if resolved != folder / layout.features(modality):
        return StoreProject(root)
    manifest, texts, here = folder / layout.MANIFEST, folder / layout.REWRITES, folder == Path.cwd().resolve()
    return StoreProject(
        root,
        modality,
        read_manifest(manifest) if manifest.is_file() else None,
        read_texts(texts) if modality is Modality.TEXT and texts.is_file() else None,
        load_params() if here and layout.PARAMS.is_file() else None,
    )


def stores(paths: Sequence[Path]) -> list[Path]:
    """The stores that a command is to work on: those named, else all of the current directory's project.

    Raises:
        MissingInput: When there is none, or one of those named is missing.
    """
    for path in paths:
        if not path.is_dir():
            raise MissingInput(f"{path} is missing", f"name a feature store, such as {layout.features(Modality.AUDIO)}")
    found = list(paths) or sorted(path for path in layout.DATA.glob("features/*.zarr") if path.is_dir())
    if not found:
        raise MissingInput(
            f"there are no feature stores in {layout.DATA / 'features'}",
            "change into a project folder and run `ecmf-pipe extract`, or `dvc pull`; or name a store",
        )
    return found
