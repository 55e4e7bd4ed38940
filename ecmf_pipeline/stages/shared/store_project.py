"""Find the project of a feature store: its manifest, transcripts and params, as far as they exist."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipText, Modality, read_manifest, read_texts
from ecmf_pipeline.core.errors import (
    InputError,
    MissingInput,
    MissingWeights,
    ModelError,
    ParamsError,
    StaleStore,
    StoreError,
)
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.encoders.config import ImportedConfig, has_imported_features
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.features import open_store
from ecmf_pipeline.extraction.run import BranchInputs, input_digests
from ecmf_pipeline.interop.feature_import import ImportReport, import_features
from ecmf_pipeline.interop.feature_sources import open_source
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.store import FeatureStore, current_fingerprint, make_current
from ecmf_pipeline.store.state import GroupSummary

_DEPTH = len(paths.features(Modality.AUDIO).parts)


@dataclass(frozen=True)
class StoreProject:
    """A feature store and its project.

    Attributes:
        root: Folder of the store.
        modality: Modality of the store; None if the store is not in data/features of a project.
        clips: Clips of the manifest; None if there is no manifest.
        texts: Texts by clip id; None if there are none.
        params: Params; None if there are none, or the project is not in the current directory (their paths are
            relative to it).
    """

    root: Path
    modality: Modality | None = None
    clips: Sequence[Clip] | None = None
    texts: Mapping[str, ClipText] | None = None
    params: Params | None = None

    @property
    def part_size(self) -> int:
        """Number of clips in one part."""
        return (self.params.extract if self.params else ExtractConfig()).part_size

    def present(self, settings: Mapping[str, Any], newest: Mapping[str, str]) -> dict[str, str | None] | None:
        """Return the digest of each clip's current input, None for clips without one; see `store.state.Present`."""
        if self.clips is None or self.modality is None:
            return None
        if has_imported_features(settings):
            return {clip.clip_id: newest.get(clip.clip_id) for clip in self.clips}
        if self.modality is Modality.TEXT and self.texts is None:
            return None
        branch_inputs = BranchInputs.of_settings(settings)
        if branch_inputs.face_crops and not any(clip.face_path for clip in self.clips):
            return None  # the corpus was indexed without face crops
        digests = input_digests(self.modality, self.clips, self.texts or {}, branch_inputs)
        return {clip.clip_id: digests.get(clip.clip_id) for clip in self.clips}

    def open(self) -> FeatureStore:
        """Open the features of the settings in params; the current ones if params are unknown or do not use them."""
        if self.params is None or self.modality is None or self.modality not in self.params.extract.encoders:
            return FeatureStore.open(self.root, current_fingerprint(self.root))
        return open_store(self.root, self.params.settings_of(self.modality, weights_required=False))

    def settings_in_use(self) -> dict[str, Mapping[str, Any]] | None:
        """Return the settings in params by fingerprint, empty if the modality is not in use; None if unknown.

        They are unknown without params. Without weights they are those of the features that `open` opens.
        """
        if self.params is None or self.modality is None:
            return None
        if self.modality not in self.params.extract.encoders:
            return {}
        try:
            settings = [self.params.token_settings(token) for token in self.params.tokens_of(self.modality).values()]
        except MissingWeights:
            return self._settings_of_stored()
        except ModelError:
            return None
        return {fingerprint(one): one for one in settings}

    def _settings_of_stored(self) -> dict[str, Mapping[str, Any]] | None:
        stored: dict[str, Mapping[str, Any]] = {}
        if self.params is None or self.modality is None:
            return stored
        for token in self.params.tokens_of(self.modality).values():
            try:
                store = open_store(self.root, self.params.token_settings(token, weights_required=False))
            except (StaleStore, MissingInput):
                continue
            except StoreError:
                return None
            stored[store.fingerprint] = store.settings
        return stored


def project_of(root: Path) -> StoreProject:
    """Find the project of a store.

    Args:
        root: The ``*.zarr`` folder.

    Raises:
        InputError: If the manifest, transcripts or params of the project are damaged.
    """
    resolved = root.resolve()
    modality = next((modality for modality in Modality if modality.value == root.stem), None)
    if modality is None or len(resolved.parts) <= _DEPTH:
        return StoreProject(root)
    folder = resolved.parents[_DEPTH - 1]
    if resolved != folder / paths.features(modality):
        return StoreProject(root)
    manifest, texts = folder / paths.MANIFEST, folder / paths.REWRITES
    is_current = folder == Path.cwd().resolve()
    return StoreProject(
        root,
        modality,
        read_manifest(manifest) if manifest.is_file() else None,
        read_texts(texts) if modality is Modality.TEXT and texts.is_file() else None,
        load_params() if is_current and paths.PARAMS.is_file() else None,
    )


def find_stores(roots: Sequence[Path]) -> list[Path]:
    """Return the given stores, or all stores of the project in the current directory if none are given.

    Raises:
        MissingInput: If there is no store, or a given store does not exist.
    """
    for path in roots:
        if not path.is_dir():
            raise MissingInput(
                f"{path} does not exist", f"give the path of a feature store, such as {paths.features(Modality.AUDIO)}"
            )
    stores = list(roots) or sorted(path for path in paths.DATA.glob("features/*.zarr") if path.is_dir())
    if not stores and not paths.PARAMS.is_file():
        raise MissingInput(
            f"{Path.cwd()} is not a project folder: {paths.PARAMS} does not exist",
            "change to a project folder, give the path of a store, or create a project",
            command="ecmf-pipe init FOLDER",
        )
    if not stores:
        raise MissingInput(
            f"{paths.DATA / 'features'} holds no feature stores",
            "extract or pull features, or give the path of a store",
            command="ecmf-pipe extract",
        )
    return stores


def other_settings(project: StoreProject, holdings: Sequence[GroupSummary]) -> list[GroupSummary]:
    """Return the settings groups that are not in use.

    Raises:
        InputError: If no group is in use, since all features would be removed.
    """
    in_use = project.settings_in_use()
    used = {holding.fingerprint for holding in holdings if holding.is_current} if in_use is None else set(in_use)
    if not any(holding.fingerprint in used and holding.parts for holding in holdings):
        raise InputError(
            f"--drop-other-settings: {project.root} holds no features of the settings in use; all would be removed",
            "extract features first; to delete all features, remove the folder and run `ecmf-pipe cache gc --all`",
            command="ecmf-pipe extract",
        )
    return [holding for holding in holdings if holding.fingerprint not in used]


def import_encoder(params: Params, path: Path, *, modality: Modality, encoder: str) -> ImportReport:
    """Import features of the manifest's clips into the store of a modality.

    Args:
        params: Params of the project. If they use the encoder for the modality, its features become current.
        path: Folder or file of the features.
        modality: Modality of the features.
        encoder: Name of the encoder in params.

    Raises:
        ParamsError: If params.yaml has an encoder of that name that computes its features.
        InputError: If ``path`` holds no usable features.
    """
    config = _config(params, encoder)
    clip_ids = read_manifest(paths.MANIFEST).ids
    root = paths.features(modality)
    settings = params.settings_of(modality, config)
    with open_source(path) as source:
        report = import_features(source, clip_ids, root, settings, dtype=config.dtype)
    if encoder in params.encoders and uses_encoder(params, modality, encoder):
        others = [params.token_settings(t, weights_required=False) for t in params.tokens_of(modality).values()]
        make_current(root, fingerprint(settings), [fingerprint(one) for one in others])
    return report


def uses_encoder(params: Params, modality: Modality, encoder: str) -> bool:
    """Return whether a modality uses this encoder."""
    return encoder in params.extract.encoders.get(modality, ())


def _config(params: Params, encoder: str) -> ImportedConfig:
    """Return the config of the encoder; a new one if params.yaml has no encoder of that name."""
    if not re.fullmatch(r"[\w.-]+", encoder):
        raise ParamsError(f"--encoder {encoder!r} is not a valid name", "use letters, digits, '_', '-' and '.'")
    config = params.encoders.get(encoder, ImportedConfig()).named(encoder)
    if not isinstance(config, ImportedConfig):
        raise ParamsError(
            f"encoders.{encoder} in params.yaml computes its features; imported features cannot be mixed with them",
            "give another name as --encoder",
            keys=[f"encoders.{encoder}"],
        )
    return config
