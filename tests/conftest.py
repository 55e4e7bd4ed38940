"""Fixtures that every room shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def models() -> Path:
    """The embedded weights, in the layout of ``data/models``; `make test` fetches them first."""
    folder = Path(os.environ.get("ECMF_MODELS", REPOSITORY / "data" / "models"))
    if not (folder / "minilm" / "config.json").is_file():
        pytest.fail(f"no weights in {folder}: run `make test`, or `ecmf-pipe models` first")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips, text and features; not part of the repository."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data of ../shared/data is not on this machine")
    return folder
