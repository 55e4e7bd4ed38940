"""Commands of the documentation exist, with their options and arguments."""

from __future__ import annotations

import contextlib
import io
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from ecmf_pipeline.cli.main import app
from tests.docs.pages import REPOSITORY, Command, commands

EXTRA = re.compile(r"pip install \"\.\[(\w+)\]")


def command_of(words: tuple[str, ...]) -> tuple[Any, list[str]]:
    """Return the command of the application that a line runs, and its arguments.

    Raises:
        KeyError: If there is no such command.
    """
    command, rest = get_command(app), list(words[1:])
    while rest and hasattr(command, "commands"):
        if rest[0].startswith("--"):  # an option of the group
            break
        command = command.commands[rest.pop(0)]
    return command, rest


@pytest.mark.parametrize("line", commands("ecmf-pipe"), ids=str)
def test_ecmf_pipe_commands_parse(line: Command) -> None:
    command, arguments = command_of(line.words)
    known = {spelling for one in command.params for spelling in (*one.opts, *one.secondary_opts)} | {"--help"}
    assert {word.partition("=")[0] for word in arguments if word.startswith("--")} <= known
    if line.complete and "--help" not in arguments:
        runs = not hasattr(command, "commands") or command.invoke_without_command
        assert runs, "the line names a group of commands"
        command.make_context(line.words[1], arguments)


@pytest.fixture(scope="module")
def stages() -> set[str]:
    """Stages of dvc.yaml with those of each value of ``foreach``, and their outputs."""
    found: set[str] = set()
    for name, stage in yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        values = stage.get("foreach", ())
        values = ["face", "audio"] if isinstance(values, str) else list(values)
        found |= {name, *(f"{name}@{value}" for value in values)}
        for output in (*stage.get("do", stage).get("outs", ()), *stage.get("do", stage).get("metrics", ())):
            path = output if isinstance(output, str) else next(iter(output))
            found |= {path, *(re.sub(r"\$\{[^}]*\}", value, path) for value in values)}
    return found


@pytest.mark.parametrize("line", commands("dvc"), ids=str)
def test_dvc_commands_parse(line: Command, stages: set[str]) -> None:
    from dvc.cli import DvcParserError, parse_args

    shown = io.StringIO()
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
        if not line.complete and line.words[1] not in {"repro", "pull", "push"}:  # it may lack arguments
            with pytest.raises(SystemExit) as exited:
                parse_args([line.words[1], "--help"])
            assert exited.value.code == 0
            return
        try:
            parsed = parse_args(list(line.words[1:]))
        except DvcParserError:
            pytest.fail(shown.getvalue().splitlines()[-1])
    if parsed.cmd in {"repro", "pull", "push"}:
        assert set(parsed.targets or ()) <= stages


@pytest.mark.parametrize("line", commands("make"), ids=str)
def test_make_targets_exist(line: Command) -> None:
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {word for word in line.words[1:] if "=" not in word} <= set(targets)


@pytest.mark.parametrize("line", [line for line in commands("python") if "-m" in line.words], ids=str)
def test_modules_and_their_options_exist(line: Command) -> None:
    module = line.words[line.words.index("-m") + 1]
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    if module.startswith("tools"):
        source = "".join(
            path.read_text(encoding="utf-8")
            for path in (Path(spec.origin), Path(spec.origin).with_name("__main__.py"))
            if path.is_file()
        )
        options = {word for word in line.words if word.startswith("--")}
        assert [option for option in options if f'"{option}"' not in source] == []


def test_the_pages_name_tools() -> None:
    assert any("tools.soak" in line.words for line in commands("python"))


def test_extras_exist() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs").rglob("*.md"))
    named = set(EXTRA.findall(text + (REPOSITORY / "README.md").read_text(encoding="utf-8")))
    assert named
    assert named <= set(extras["optional-dependencies"])
