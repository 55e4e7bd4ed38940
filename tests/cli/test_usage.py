"""Tests of wrong commands, options and values on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

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


def test_home_folder_is_expanded_in_paths(monkeypatch, capsys, tmp_path):
    (tmp_path / "labels.csv").write_text("name,label\na,sad\nb,happy\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_main(monkeypatch, "score", "~/labels.csv", "~/labels.csv", "--json") == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 2
    assert run_main(monkeypatch, "store", "verify", "~/a.zarr", "~/b.zarr") == 2
    assert str(tmp_path / "a.zarr") in capsys.readouterr().err


NOBODY = 65534
INDEX_AS_NOBODY = f"""
import os
from contextlib import suppress
from ecmf_pipeline.cli.main import main

os.chdir("writable")
with suppress(SystemExit):
    main()  # imports the modules, which the other user may not be allowed to read
os.setgid({NOBODY})
os.setuid({NOBODY})
os.chdir("../read-only")
main()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of other users")
def test_read_only_project_gets_one_clear_sentence():
    with tempfile.TemporaryDirectory() as name:  # tmp_path is private
        root = Path(name)
        root.chmod(0o755)
        for project in ("writable", "read-only"):
            (root / project / "clips").mkdir(parents=True)
            (root / project / "clips" / "a.mp4").write_bytes(b"x")
            (root / project / "params.yaml").write_text(
                "corpus: {kind: folder, root: clips}\nindex: {workers: 0, max_quarantined: 1}\n"
            )
        folder = root / "read-only"
        folder.chmod(0o555)
        command = [sys.executable, "-c", INDEX_AS_NOBODY, "index"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        message, hint = done.stderr.splitlines()
        assert done.returncode == 2
        assert message.startswith(f"error: folder {folder} is read-only for this user: ")
        assert hint.startswith("hint: ")
        assert not (folder / "data").exists()
