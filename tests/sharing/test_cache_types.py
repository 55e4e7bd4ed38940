"""Tests that the pipeline never writes through links of the workspace into DVC's cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def damaged_objects(cache: Path) -> list[str]:
    """Return the objects of DVC's cache whose digest differs from their name."""
    return [
        str(path)
        for path in (cache / "files" / "md5").rglob("*")
        if path.is_file()
        and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        != f"{path.parent.name}{path.name.removesuffix('.dir')}"
    ]


@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_appending_to_a_store_does_not_change_a_linked_cache(kind, ours, add_clips):
    ours("dvc", "config", "cache.type", kind)
    ours("dvc", "checkout", "--relink", "index", "settings", "rewrite", "extract")
    chunk = next((ours.folder / "data" / "features" / "audio.zarr").rglob("values/c/0/0"))
    assert chunk.is_symlink() if kind == "symlink" else chunk.stat().st_nlink == 2
    add_clips(ours, 14, 16)
    assert "extract audio: 2 done, 14 reused" in ours("dvc", "repro", "extract@audio")
    ours("ecmf-pipe", "rewrite")
    assert damaged_objects(ours.folder / ".dvc" / "cache") == []
    assert "extract audio: 0 done, 16 reused" in ours("ecmf-pipe", "extract", "--modality", "audio")
