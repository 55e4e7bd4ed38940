"""What README and docs name of the code exists."""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

MODULE_FILE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py)`")
FOLDER_OR_FILE = re.compile(r"`((?:ecmf_pipeline|tools|tests)/[\w./-]+)`")
TOOL = re.compile(r"python -m (tools[\w.]*)")
NAME = re.compile(r"`((?:ecmf_pipeline\.)?(?:encoders|fusion|labels|tools)\.(?!csv)[\w.]+)(?:\(\))?`")


def found(repository: Path, pattern: re.Pattern[str]) -> set[tuple[str, str]]:
    """Every match with the page that it is in; ADRs tell of what was, and are left out."""
    pages = [
        repository / "README.md",
        *sorted(set(repository.glob("docs/**/*.md")) - set(repository.glob("docs/adr/*"))),
    ]
    return {(page.name, match) for page in pages for match in pattern.findall(page.read_text(encoding="utf-8"))}


def test_paths(repository: Path) -> None:
    named = found(repository, MODULE_FILE) | found(repository, FOLDER_OR_FILE)
    assert ("README.md", "encoders/config.py") in named

    def exists(path: str) -> bool:
        package = repository / "ecmf_pipeline"
        return (repository / path).exists() or (package / path).exists() or any(package.glob(f"*/{path}"))

    assert {(page, path) for page, path in named if not exists(path)} == set()


def test_tools(repository: Path) -> None:
    named = {module for _, module in found(repository, TOOL)}
    assert "tools.soak" in named
    assert [module for module in sorted(named) if find_spec(module) is None] == []


@pytest.mark.slow
def test_names(repository: Path) -> None:
    named = {name for _, name in found(repository, NAME)}
    assert "encoders.base.Encoder" in named
    assert [name for name in sorted(named) if not is_name(name)] == []


def is_name(dotted: str) -> bool:
    """Whether a dotted path is a module of ours, or a name in one."""
    whole = dotted if dotted.startswith(("ecmf_pipeline.", "tools.")) else f"ecmf_pipeline.{dotted}"
    module, _, name = whole.rpartition(".")
    return hasattr(importlib.import_module(module), name) or find_spec(whole) is not None
