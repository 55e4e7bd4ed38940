"""Read stored features for training and prediction, and check that they come from the encoders of a saved model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecmf_pipeline.core.arrays import MAX_FRAMES
from ecmf_pipeline.core.clips import Clip, ClipText, Modality
from ecmf_pipeline.core.config import Config, PoolOrFrames
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.encoders.config import text_columns
from ecmf_pipeline.extraction.run import current_digests
from ecmf_pipeline.store import FeatureStore

_SAME_COLUMNS = frozenset({"dtype", "precision", "max_tokens", "window_seconds"})
"""Settings of an encoder that change numbers but not the meaning of a column.

They are the number type, and how much of a long clip is read at once.
"""


class FeatureOrigin(Config):
    """Origin of a modality's features.

    Attributes:
        encoders: Names under ``encoders`` in params.yaml, in column order. Informational: the same settings under
            another name give the same features.
        settings: Settings of the store (`Params.settings_of`); their hash is the fingerprint.
    """

    encoders: tuple[str, ...] = Field(min_length=1)
    settings: dict[str, Any]

    @property
    def columns(self) -> dict[str, Any]:
        """The settings that define the meaning of the columns, as JSON values: encoders and the texts that they read.

        Excluded are the reading of clips and the cropping of faces, which may differ between corpora, and the language:
        the original of one corpus is the translation of another.
        """
        return {"encoder": _columns(self.settings.get("encoder", {}))}


def _columns(encoder: Mapping[str, Any]) -> dict[str, Any]:
    if members := encoder.get("members"):  # a joined encoder
        return {**encoder, "members": [_columns(member) for member in members]}
    kept = {key: value for key, value in encoder.items() if key not in _SAME_COLUMNS}
    if "inputs" in kept:
        texts = text_columns({"encoder": encoder})
        kept["inputs"] = ["original" if text == "translation" else text for text in texts]
    return kept


def check_feature_origins(
    trained: Mapping[str, FeatureOrigin],
    now: Mapping[str, FeatureOrigin],
    *,
    hint: str,
    command: str | None = None,
    columns_only: bool = False,
) -> None:
    """Raise if features come from other encoders than those that a saved model was trained on.

    Args:
        trained: Origin of the training features, by modality; modalities without an entry are not checked.
        now: Origin of the current features, by modality.
        hint: How to fix the error.
        command: The shell command that fixes it.
        columns_only: Whether to compare only `FeatureOrigin.columns` instead of all settings.

    Raises:
        InputError: If the origins of a modality differ.
    """
    differences = []
    for name, old in trained.items():
        if (new := now.get(name)) is None:
            continue
        pair = (old.columns, new.columns) if columns_only else (old.settings, new.settings)
        if keys := list(_differing_keys(*pair)):
            differences.append(f"{name}: the saved model was trained on {_describe_difference(old, new, keys)}")
    if differences:
        raise InputError("; ".join(differences), hint, command=command)


def _describe_difference(old: FeatureOrigin, new: FeatureOrigin, keys: list[str]) -> str:
    before, after = ", ".join(old.encoders), ", ".join(new.encoders)
    if before != after:
        return f"features of {before}, but the current features are of {after}"
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"features of {before} with other settings ({', '.join(keys[:3])}{more})"


def _differing_keys(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Yield the keys, joined by dots, under which two JSON values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from _differing_keys(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key


@dataclass(frozen=True)
class StoredFeatures:
    """The stored features of the manifest's clips, read on demand.

    Attributes:
        stores: The store of each modality for which any clip has features.
        digests: For each of these modalities, the digest of each clip's valid row; clips without the modality are left
            out.
    """

    stores: Mapping[str, FeatureStore]
    digests: Mapping[str, Mapping[str, str]]

    @property
    def modalities(self) -> list[str]:
        """The modalities for which any clip has features, in order."""
        return list(self.stores)

    def read(self, clip_ids: Sequence[str], pool: PoolOrFrames) -> dict[str, NDArray[np.float32]]:
        """Read the features of some clips.

        Args:
            clip_ids: The clips, in output order.
            pool: How frame-level rows become one vector; ``frames`` keeps a sequence of at most `MAX_FRAMES` rows.

        Returns:
            For each modality (n, D), with rows of NaN for clips without features. With ``frames`` (n, T, D) if any of
            these clips has more than one row, padded with frames of NaN.
        """
        return {name: self._read(name, clip_ids, pool) for name in self.stores}

    def _read(self, name: str, clip_ids: Sequence[str], pool: PoolOrFrames) -> NDArray[np.float32]:
        store, digests = self.stores[name], self.digests[name]
        if pool != "frames":
            return store.load(clip_ids, pool=pool, digests=digests).values
        values = store.load_sequences(clip_ids, digests=digests, max_rows=MAX_FRAMES).values  # (n, T, D)
        if values.shape[1] > 1:
            return values
        missing = np.full((len(clip_ids), values.shape[2]), np.nan, np.float32)
        return values[:, 0] if values.shape[1] else missing


def open_features(
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    modalities: Sequence[Modality],
    *,
    store_root: Callable[[Modality], Path],
    fingerprint_of: Callable[[Modality], str | None],
) -> StoredFeatures:
    """Open the stores of the given modalities.

    Only features of the current input of a clip count; if the clip has changed, its features are missing. Of imported
    features the newest count.

    Args:
        clips: The clips of the manifest.
        texts: Transcripts by clip id.
        modalities: The modalities to open.
        store_root: Returns the store of a modality.
        fingerprint_of: Returns the required fingerprint of a modality's features; None: the current one of the store.

    Raises:
        MissingInput: If a store does not exist.
        StaleStore: If a store has only features of other settings.
        InputError: If no clip has any features.
    """
    stores: dict[str, FeatureStore] = {}
    digests: dict[str, Mapping[str, str]] = {}
    for modality in modalities:
        store = FeatureStore.open(store_root(modality), fingerprint_of(modality))
        valid_digests = current_digests(modality, clips, texts, store)
        if store.clips_with_features(valid_digests):
            stores[modality.value], digests[modality.value] = store, valid_digests
    if not stores:
        raise InputError("no clip has any features", "extract features first", command="ecmf-pipe extract")
    return StoredFeatures(stores, digests)
