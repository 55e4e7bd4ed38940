"""Feature stores: Zarr v3 hierarchies of immutable parts. `docs/reference/formats.md` specifies the format.

::

    data/features/face.zarr/                a Zarr group; attribute `current` names the settings in use
      1f0c9a77b2de/                         a settings group, named by its fingerprint; its attributes hold the settings
        part-000000-5c1d0e9a/               a part; attributes `clip_id`, `digest`, `length` have one entry per clip
          values/                           (rows, D), features of all clips, concatenated
          times/                            (rows,), seconds from the start of the clip
    data/features/.face.zarr.spool/         finished batches that are not yet in a part
    data/features/.face.zarr.lock           lock of the single writer

A part is written in the spool and renamed into place, so readers see only complete parts. Parts are never rewritten.
If the input of a clip changes, a later part holds its new rows; a row counts only if its digest is the requested one.
Appending therefore leaves existing files unchanged.
"""

from ecmf_pipeline.store.features import Features, FeatureStore, Sequences
from ecmf_pipeline.store.format import (
    FeatureRow,
    create_settings_group,
    current_fingerprint,
    current_fingerprints,
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
    "current_fingerprints",
    "has_fingerprint",
    "make_current",
]


def __dir__() -> list[str]:
    return list(__all__)
