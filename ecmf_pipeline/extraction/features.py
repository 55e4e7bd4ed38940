"""Read stored features for training and prediction, and refuse those of other encoders than a model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecmf_pipeline.core.arrays import MOST_FRAMES
from ecmf_pipeline.core.clips import Clip, ClipText, Modality
from ecmf_pipeline.core.config import Config, PoolOrFrames
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.encoders.config import text_columns
from ecmf_pipeline.extraction.run import present_digests
from ecmf_pipeline.store import FeatureStore

_SAME_COLUMNS = frozenset({"dtype", "precision", "max_tokens", "window_seconds"})
"""Settings of an encoder that change numbers, and not what a column means: how it is computed or stored, and how much
of a long clip it reads at once."""


class FeatureOrigin(Config):
    """Where a modality's features come from.

    Attributes:
        encoders: Names under ``encoders`` in params.yaml, in the order of their columns. For people to read: the same
            settings under another name are the same features.
        settings: Those of the store (`Params.settings_of`), whose hash is the fingerprint.
    """

    encoders: tuple[str, ...] = Field(min_length=1)
    settings: dict[str, Any]

    @property
    def columns(self) -> dict[str, Any]:
        """What tells the meaning of the columns, as plain JSON values: the encoders and which texts they read.

        Not how clips are read, or faces cut: another corpus may need other ways. Nor the language: what is the original
        in one corpus is the translation in another.
        """
        return {"encoder": _columns(self.settings.get("encoder", {}))}


def _columns(encoder: Mapping[str, Any]) -> dict[str, Any]:
    if members := encoder.get("members"):  # of several side by side
        return {**encoder, "members": [_columns(member) for member in members]}
    kept = {key: value for key, value in encoder.items() if key not in _SAME_COLUMNS}
    if "inputs" in kept:
        texts = text_columns({"encoder": encoder})
        kept["inputs"] = ["original" if text == "translation" else text for text in texts]
    return kept


def refuse_other_features(
    trained: Mapping[str, FeatureOrigin],
    now: Mapping[str, FeatureOrigin],
    *,
    hint: str,
    columns_alone: bool = False,
) -> None:
    """Stop where a saved model would take features of another encoder for those that it knows.

    Args:
        trained: Where the features that a model was trained on came from, by modality; modalities of which nobody said
            so are let pass.
        now: Where those come from that it is to judge by.
        hint: How to mend it.
        columns_alone: Whether `FeatureOrigin.columns` are to be the same, and not all settings.

    Raises:
        InputError: When those of a modality differ.
    """
    found = []
    for name, was in trained.items():
        if (is_now := now.get(name)) is None:
            continue
        pair = (was.columns, is_now.columns) if columns_alone else (was.settings, is_now.settings)
        if keys := list(_differing(*pair)):
            found.append(f"{name}: the saved model was trained on {_told(was, is_now, keys)}")
    if found:
        raise InputError("; ".join(found), hint)


def _told(was: FeatureOrigin, now: FeatureOrigin, keys: list[str]) -> str:
    before, after = ", ".join(was.encoders), ", ".join(now.encoders)
    if before != after:
        return f"features of {before}, and they are of {after} now"
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"features of {before} with other settings than {after} has now ({', '.join(keys[:3])}{more})"


def _differing(was: Any, now: Any, key: str = "") -> Iterator[str]:
    """The keys, joined by dots, under which two JSON values differ."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for name in sorted({*was, *now}):
            yield from _differing(was.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif was != now:
        yield key


@dataclass(frozen=True)
class StoredFeatures:
    """The features of the manifest's clips where they stand; read when they are asked for, all or some of them.

    Attributes:
        stores: The store of each modality of which any clip has features.
        digests: For each of them, the digest that a clip's features must come from; clips without the modality are
            left out.
    """

    stores: Mapping[str, FeatureStore]
    digests: Mapping[str, Mapping[str, str]]

    @property
    def modalities(self) -> list[str]:
        """Of which any clip has features, in order."""
        return list(self.stores)

    def read(self, clip_ids: Sequence[str], pool: PoolOrFrames) -> dict[str, NDArray[np.float32]]:
        """Read some clips' features.

        Args:
            clip_ids: The clips, in the order wanted.
            pool: How frame-level rows become one vector; ``frames`` leaves them a sequence, of `MOST_FRAMES` at most.

        Returns:
            For each modality (n, D), rows of NaN where a clip has none. With ``frames`` (n, T, D) where any of these
            clips has more than one row, frames of NaN where there are fewer than T.
        """
        return {name: self._read(name, clip_ids, pool) for name in self.stores}

    def _read(self, name: str, clip_ids: Sequence[str], pool: PoolOrFrames) -> NDArray[np.float32]:
        store, digests = self.stores[name], self.digests[name]
        if pool != "frames":
            return store.load(clip_ids, pool=pool, digests=digests).values
        values = store.load_sequences(clip_ids, digests=digests, most=MOST_FRAMES).values  # (n, T, D)
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
    """Open the stores of every modality in use.

    Only features of a clip's present input count: those of a clip that changed since are missing. Of imported features
    the newest count.

    Args:
        clips: The manifest's clips.
        texts: Transcripts by clip id.
        modalities: Which branches.
        store_root: Where each modality's store stands.
        fingerprint_of: The settings that each modality's features must be of; None where that cannot be told here, and
            those in use count.

    Raises:
        MissingInput: When a store is missing.
        StaleStore: When a store holds features of other settings only.
        InputError: When no clip has any features.
    """
    stores: dict[str, FeatureStore] = {}
    digests: dict[str, Mapping[str, str]] = {}
    for modality in modalities:
        store = FeatureStore.open(store_root(modality), fingerprint_of(modality))
        wanted = present_digests(modality, clips, texts, store)
        if store.held(wanted):
            stores[modality.value], digests[modality.value] = store, wanted
    if not stores:
        raise InputError("no clip has any features", "see `ecmf-pipe status`, then run `ecmf-pipe extract`")
    return StoredFeatures(stores, digests)
