"""Tests of the limits of YAML and JSON documents."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import yaml

import ecmf_pipeline
from ecmf_pipeline.core import documents
from ecmf_pipeline.core.documents import parse_yaml
from ecmf_pipeline.core.errors import InputError, ParamsError
from ecmf_pipeline.core.files import parse_json, read_json
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.sharing import hints

ALIAS_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], k{n}: 1}}\n" for n in range(1, 9)
)
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000))
BOMBS = {
    "aliases": ALIAS_BOMB,
    "merge keys": MERGE_BOMB,
    "chain of aliases": CHAIN,
    "nested": "a: " + "[" * 5000 + "]" * 5000,
    "nested blocks": "".join(" " * n + "a:\n" for n in range(300)),
    "alias to itself": "a: &a [*a]",
    "alias to its parent": "a: &a {b: {c: *a}}",
    "many values": "a: [" + "1, " * (documents.MAX_NODES + 1) + "1]",
    "date": "a: 2001-99-99",
    "long number": "a: " + "9" * 5000,
    "tag": "a: !!timestamp never",
    "empty number": "a: !!int ''",
    "key that is a list twice": "? [a]\n: 1\n? [a]\n: 2\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_documents_without_a_reasonable_size_or_value_raise_a_yaml_error(name):
    with pytest.raises(yaml.YAMLError):
        parse_yaml(BOMBS[name])


@pytest.mark.parametrize("name", ["aliases", "merge keys"])
def test_aliases_of_aliases_take_no_memory(name):
    tracemalloc.start()
    try:
        with pytest.raises(yaml.YAMLError):
            parse_yaml(BOMBS[name])
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_documents_with_aliases_and_merge_keys_are_read():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2},
        "c": [{"x": 1}, {"x": 1}],
    }
    assert parse_yaml("") is None


@pytest.mark.parametrize("name", ["aliases", "nested", "date"])
def test_every_reader_of_yaml_reports_them_as_its_own_error(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for file in ("params.yaml", "prompt.yaml", "dvc.lock"):
        Path(file).write_text(BOMBS[name])
    for read in (lambda: load_params(Path("params.yaml")), lambda: load_prompt("prompt.yaml")):
        with pytest.raises(ParamsError) as caught:
            read()
        assert caught.value.exit_code == 2
        assert len(caught.value.message) < 1000
    assert hints.find_shared_outputs([Path("data/manifest.csv")]) is None


def test_only_one_module_calls_yaml():
    package = Path(ecmf_pipeline.__file__).parent
    callers = {
        path.name
        for path in package.rglob("*.py")
        if any(call in path.read_text(encoding="utf-8") for call in ("yaml.load", "yaml.safe_load", "SafeLoader"))
    }
    assert callers == {"documents.py"}


def test_deeply_nested_json_raises_value_error(tmp_path):
    nested = "[" * 100_000 + "]" * 100_000
    with pytest.raises(ValueError, match="nested"):
        parse_json(nested)
    (tmp_path / "corpus.json").write_text(nested)
    with pytest.raises(InputError):
        read_json(tmp_path / "corpus.json", made_by="index")


def test_a_long_list_is_refused_before_all_of_it_is_read():
    text = "a: [" + "1," * 100_000 + "]"
    tracemalloc.start()
    try:
        with pytest.raises(yaml.MarkedYAMLError, match="too many values"):
            parse_yaml(text)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("number", ["1" + ":59" * 20_000, "0x" + "f" * 20_000, "1" + ":59" * 20_000 + ".5"])
def test_long_numbers_are_refused(number):
    with pytest.raises(yaml.MarkedYAMLError, match="too long"):
        parse_yaml(f"a: {number}")


def test_only_true_and_false_are_booleans() -> None:
    words = ["off", "on", "no", "NO", "yes", "Off", "n", "y"]
    assert parse_yaml(f"[{', '.join(words)}]") == words
    assert parse_yaml("[true, False, null, ~]") == [True, False, None, None]
