"""Feature stores: Zarr v3, made of immutable parts; `docs/store.md` specifies the format.

::

    data/features/face.zarr/                a Zarr group; attribute `current` names the settings in use
      1f0c9a77b2de/                         one group for each settings' fingerprint, its attributes hold the settings
        part-000000-5c1d0e9a/               a group: attributes `clip_id`, `digest`, `length`, one entry a clip
          values/                           (rows, D) features of its clips, one after another
          times/                            (rows,) seconds from the clip's start
    data/features/.face.zarr.spool/         finished batches that do not stand in a part yet
    data/features/.face.zarr.lock           held by the one writer

A part is written aside and renamed into place, so only whole parts exist; nothing is ever rewritten. A clip whose
input changed gets a new row in a later part: a row counts only when its digest is the one asked for. Appending
therefore never touches old bytes.
"""

from ecmf_pipeline.store.features import Features, FeatureStore, Sequences
from ecmf_pipeline.store.format import (
    FeatureRow,
    create_settings_group,
    current_fingerprint,
    has_fingerprint,
    make_current,
)
from ecmf_pipeline.store.writer import StoreWriter, can_hold

__all__ = [
    "FeatureRow",
    "FeatureStore",
    "Features",
    "Sequences",
    "StoreWriter",
    "can_hold",
    "create_settings_group",
    "current_fingerprint",
    "has_fingerprint",
    "make_current",
]
