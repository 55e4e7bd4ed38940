"""Python and YAML blocks of the documentation work."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from ecmf_pipeline.settings.params import Params, validated
from tests.docs.pages import Block, blocks


def name_of(block: Block) -> str:
    return f"{block.page}:{block.text.split(chr(10), 1)[0][:40]}"


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"), ids=name_of)
def test_python_blocks_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.page, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", blocks("python"), ids=name_of)
def test_python_blocks_import_existing_names(block: Block) -> None:
    from importlib import import_module

    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ecmf_pipeline"):
            for alias in node.names:
                assert hasattr(import_module(node.module), alias.name), f"{node.module}.{alias.name}"


PARAMS = [block for block in blocks("yaml") if "apiVersion:" not in block.text]  # not those of Kubernetes


@pytest.mark.parametrize("block", PARAMS, ids=name_of)
def test_yaml_blocks_are_valid_params(block: Block) -> None:
    document = yaml.safe_load(block.text)
    assert isinstance(document, dict)
    assert set(document) <= set(Params.model_fields)
    # Fragments that depend on the kind of corpus, such as presets, are valid for one of MER.
    corpus = {"kind": "mer", "root": "corpus"} | document.get("corpus", {})
    validated(document | {"corpus": corpus}, where=block.page)


def test_there_are_blocks_of_each_kind() -> None:
    assert {block.language for block in blocks("python", "yaml", "sh")} == {"python", "yaml", "sh"}
