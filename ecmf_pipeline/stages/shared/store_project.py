"""Find the project around a feature store: its manifest, transcripts and params, as far as they exist."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipText, Modality, read_manifest, read_texts
from ecmf_pipeline.core.errors import InputError, MissingInput, ModelError, ParamsError
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.encoders.config import ImportedConfig, settings_of_imported
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.run import Reading, input_digests
from ecmf_pipeline.interop.feature_import import ImportReport, import_features
from ecmf_pipeline.interop.feature_sources import open_source
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.store import make_current
from ecmf_pipeline.store.state import Holding

_DEPTH = len(paths.features(Modality.AUDIO).parts)


@dataclass(frozen=True)
class StoreProject:
    """A store, and the project around it.

    Attributes:
        modality: None where the store does not stand in its place in a project.
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
        """The digest of each clip's present input, None for clips without one; see `store.state.Present`."""
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
        try:
            settings = self.params.settings_of(self.modality)
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


def find_stores(roots: Sequence[Path]) -> list[Path]:
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


def other_settings(project: StoreProject, holdings: Sequence[Holding]) -> list[Holding]:
    """Return the settings groups that are not in use.

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


def import_encoder(params: Params, path: Path, *, modality: Modality, encoder: str) -> ImportReport:
    """Import features of the manifest's clips into the modality's store.

    Args:
        params: The project's; where they use the encoder for the modality, its features become the current ones.
        path: The folder or file that holds the features.
        modality: The branch that they serve.
        encoder: The encoder's name in params.

    Raises:
        ParamsError: When params.yaml has an encoder of that name that computes its features.
        InputError: When nothing in ``path`` can be used.
    """
    config = _config(params, encoder)
    clip_ids = [clip.clip_id for clip in read_manifest(paths.MANIFEST)]
    root = paths.features(modality)
    settings = params.settings_of(modality, config)
    with open_source(path) as source:
        report = import_features(source, clip_ids, root, settings, dtype=config.dtype)
    if encoder in params.encoders and uses_encoder(params, modality, encoder):
        make_current(root, fingerprint(settings))
    return report


def uses_encoder(params: Params, modality: Modality, encoder: str) -> bool:
    """Whether a modality uses an encoder, and that one alone."""
    return params.extract.encoders.get(modality) == (encoder,)


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
