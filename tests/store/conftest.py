"""Fixtures that create small stores."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, create_settings_group

SETTINGS = {"encoder": {"type": "test"}, "media": {"frames": 4}}


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    return SETTINGS


@pytest.fixture(scope="session")
def row() -> Callable[..., FeatureRow]:
    """Return a function that creates a row of random values, or of one constant value."""

    def make(
        clip_id: str, *, length: int = 3, dim: int = 5, digest: str = "d", value: float | None = None
    ) -> FeatureRow:
        rng = np.random.default_rng(zlib.crc32(f"{clip_id} {digest}".encode()))
        values = rng.normal(size=(length, dim)) if value is None else np.full((length, dim), value)
        return FeatureRow(clip_id, digest, values.astype(np.float32), {"times": np.arange(length, dtype=np.float32)})

    return make


@pytest.fixture(scope="session")
def write() -> Callable[..., FeatureStore]:
    """Return a function that writes a store, one part for each batch of rows, and opens it.

    The features are float16 with D = 5 by default.
    """

    def make(root: Path, *batches: Sequence[FeatureRow], dim: int = 5, dtype: str = "float16") -> FeatureStore:
        fingerprint = create_settings_group(root, SETTINGS, dim=dim, dtype=dtype)
        with StoreWriter(root, fingerprint) as writer:
            for batch in batches:
                writer.append(batch)
        return FeatureStore(root, fingerprint)

    return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "features" / "face.zarr"


@pytest.fixture
def fingerprint(root: Path) -> str:
    """The fingerprint of an empty store at ``root``."""
    return create_settings_group(root, SETTINGS, dim=5, dtype="float16")
