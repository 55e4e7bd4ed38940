"""Fixture that writes the zoo once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.zoo.specimens import write_zoo


@pytest.fixture(scope="session")
def zoo_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder)
    return folder
