"""Fixture that writes the zoo once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.zoo.specimens import build


@pytest.fixture(scope="session")
def zoo_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    build(folder)
    return folder
