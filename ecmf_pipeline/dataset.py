"""Features of the manifest's clips, read for training and prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.clips import Clip, Modality
from ecmf_pipeline.encoders.base import ClipText
from ecmf_pipeline.errors import InputError
from ecmf_pipeline.extraction.plan import present_digests
from ecmf_pipeline.pooling import Pool
from ecmf_pipeline.store import FeatureStore


def load_features(
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    modalities: Sequence[Modality],
    *,
    store_root: Callable[[Modality], Path],
    fingerprint_of: Callable[[Modality], str | None],
    pool: Pool,
) -> dict[str, NDArray[np.float32]]:
    """Read the pooled features of every modality in use.

    Only features of a clip's present input count: those of a clip that changed since are missing. Of imported features
    the newest count.

    Args:
        clips: The clips, in the order wanted.
        texts: Transcripts by clip id.
        modalities: Which branches.
        store_root: Where each modality's store stands.
        fingerprint_of: The settings that each modality's features must be of; None where that cannot be told here, and
            those in use count.
        pool: How frame-level rows become one vector.

    Returns:
        For each modality of which any clip has features, (n, D); rows of NaN where a clip has none.

    Raises:
        MissingInput: When a store is missing.
        StaleStore: When a store holds features of other settings only.
        InputError: When no clip has any features.
    """
    clip_ids = [clip.clip_id for clip in clips]
    loaded: dict[str, NDArray[np.float32]] = {}
    for modality in modalities:
        store = FeatureStore.open(store_root(modality), fingerprint_of(modality))
        digests = present_digests(modality, clips, texts, store)
        features = store.load(clip_ids, pool=pool, digests=digests)
        if features.present.any():
            loaded[modality.value] = features.values
    if not loaded:
        raise InputError("no clip has any features", "see `ecmf-pipe status`, then run `ecmf-pipe extract`")
    return loaded
