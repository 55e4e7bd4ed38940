"""Features of the manifest's clips, read for training and prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, Modality
from ecmf_pipeline.core.config import PoolOrFrames
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.pooling import MOST_FRAMES
from ecmf_pipeline.core.transcripts import ClipText
from ecmf_pipeline.extraction.plan import present_digests
from ecmf_pipeline.store import FeatureStore


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
