"""Tests of wrong commands, options and values on the command line."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import typer

from ecmf_pipeline.cli import main as cli
from ecmf_pipeline.cli.usage import CommandGroup


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process and return the exit code."""
    monkeypatch.setattr(sys, "argv", ["ecmf-pipe", *arguments])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize(
    ("arguments", "expected", "suggestion", "command"),
    [
        (["indx"], "'indx'", "index", "ecmf-pipe --help"),
        (["qqqq"], "'qqqq'", None, "ecmf-pipe --help"),
        (["store", "vrify"], "'vrify'", "verify", "ecmf-pipe store --help"),
        (["llm", "plna"], "'plna'", "plan", "ecmf-pipe llm --help"),
        (["extract", "--retry"], "--retry", "--retry-quarantined", "ecmf-pipe extract --help"),
        (["extract", "--modalty", "face"], "--modalty", "--modality", "ecmf-pipe extract --help"),
        (["--verbose"], "--verbose", None, "ecmf-pipe --help"),
        (["extract", "--modality", "smell"], "'smell'", None, "ecmf-pipe extract --help"),
        (["extract", "--workers", "-1"], "--workers", None, "ecmf-pipe extract --help"),
        (["score"], "predictions", None, "ecmf-pipe score --help"),
        (["init", "a", "b"], "(b)", None, "ecmf-pipe init --help"),
    ],
)
def test_usage_error_prints_message_hint_and_help_command(
    monkeypatch, capsys, arguments, expected, suggestion, command
):
    assert run_main(monkeypatch, *arguments) == 2
    output = capsys.readouterr()
    message, hint, last = output.err.splitlines()
    assert output.out == ""
    assert message.startswith("error: ")
    assert expected in message
    assert message[-1] != "."
    assert hint.startswith("hint: ")
    assert ("did you mean" in hint) == (suggestion is not None)
    assert suggestion is None or f"did you mean {suggestion}?" in hint
    assert last == f"  {command}"


@pytest.mark.parametrize("arguments", [[], ["store"], ["llm"]])
def test_group_without_command_prints_its_help(monkeypatch, capsys, arguments):
    assert run_main(monkeypatch, *arguments) == 2
    output = capsys.readouterr()
    assert "Usage:" in output.out
    assert output.err == ""


def test_help_exits_with_code_0(monkeypatch, capsys):
    assert run_main(monkeypatch, "extract", "--help") == 0
    assert "Example: ecmf-pipe extract" in capsys.readouterr().out


def use_command(monkeypatch: pytest.MonkeyPatch, action: object) -> None:
    app = typer.Typer(cls=CommandGroup)
    app.command("act")(action)
    app.command("other")(lambda: None)
    monkeypatch.setattr(cli, "app", app)


def test_exit_code_of_a_command_is_kept(monkeypatch):
    def act() -> None:
        raise typer.Exit(3)

    use_command(monkeypatch, act)
    assert run_main(monkeypatch, "act") == 3
    assert run_main(monkeypatch, "other") == 0


def test_ctrl_c_exits_with_code_130_and_a_hint(monkeypatch, capsys):
    def act() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    use_command(monkeypatch, act)
    assert run_main(monkeypatch, "act") == 130
    message, hint = capsys.readouterr().err.splitlines()
    assert message == "error: interrupted"
    assert hint.startswith("hint: ")
