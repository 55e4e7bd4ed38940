"""The zoo, made once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # its modules, which `tools/zoo.py` uses too

from specimens import build


@pytest.fixture(scope="session")
def zoo_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    build(folder)
    return folder
