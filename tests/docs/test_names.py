"""Modules, files and names that the documentation mentions exist."""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY, pages
from tools.reference.params import all_keys

MODULE_FILE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py)`")
FOLDER_OR_FILE = re.compile(r"`((?:ecmf_pipeline|tools|tests)/[\w./-]+)`")
NAME = re.compile(r"`((?:ecmf_pipeline\.)?(?:encoders|fusion|labels|corpora|tools)\.(?!csv|cache|npz)[\w.]+)(?:\(\))?`")
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def mentioned(pattern: re.Pattern[str]) -> set[tuple[str, str]]:
    """Return each match with its page."""
    return {
        (page.relative_to(REPOSITORY).as_posix(), match)
        for page in pages()
        for match in pattern.findall(page.read_text(encoding="utf-8"))
    }


def exists(path: str) -> bool:
    package = REPOSITORY / "ecmf_pipeline"
    return (REPOSITORY / path).exists() or (package / path).exists() or any(package.glob(f"*/{path}"))


def test_paths_exist() -> None:
    named = mentioned(MODULE_FILE) | mentioned(FOLDER_OR_FILE)
    assert ("docs/explanation/architecture.md", "encoders/config.py") in named
    assert {(page, path) for page, path in named if not exists(path)} == set()


def test_relative_links_lead_to_files() -> None:
    missing = {
        (page.relative_to(REPOSITORY).as_posix(), link)
        for page in pages(decisions=True)
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    }
    assert missing == set()


def test_decision_records_are_on_the_index_page() -> None:
    folder = REPOSITORY / "docs" / "adr"
    index = (folder / "index.md").read_text(encoding="utf-8")
    records = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert records
    assert [name for name in records if f"({name})" not in index] == []


@pytest.mark.slow
def test_names_exist() -> None:
    keys = [key.path for key in all_keys()]
    named = {name for _, name in mentioned(NAME) if not any(f".{key}".endswith(f".{name}") for key in keys)}
    assert "encoders.base.Encoder" in named
    assert [name for name in sorted(named) if not is_name(name)] == []


def is_name(dotted: str) -> bool:
    """Return whether a dotted path is a module, or a name in one."""
    whole = dotted if dotted.startswith(("ecmf_pipeline.", "tools.")) else f"ecmf_pipeline.{dotted}"
    module, _, name = whole.rpartition(".")
    return hasattr(importlib.import_module(module), name) or find_spec(whole) is not None


def test_text_pages_mention_each_command(repository: Path) -> None:
    from ecmf_pipeline.cli.main import app

    reference = (repository / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for command in app.registered_commands:
        assert command.callback is not None
        assert f"ecmf-pipe {command.callback.__name__}" in reference
