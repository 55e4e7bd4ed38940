"""Report wrong commands, options and values of the command line in the form of all other errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import InputError, Interrupted

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Base class of typer's errors about the command line, which typer does not export."""


class CommandGroup(TyperGroup):
    """A group of commands that suggests the nearest command for a typo and prints its help if called without one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options of the group; without arguments, print the help and exit with code 2."""
        if not args:
            if text := ctx.get_help():  # empty if rich has already printed the help
                echo(text)
            ctx.exit(InputError.exit_code)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first argument names.

        Raises:
            InputError: If there is no such command.
        """
        if args[0] not in self.commands:
            raise InputError(
                f"{ctx.command_path} has no command {args[0]!r}",
                _hint(_nearest(args[0], self.commands), "commands"),
                command=f"{ctx.command_path} --help",
            )
        name, command, rest = super().resolve_command(ctx, args)
        for param in command.params if command else ():
            param.callback = param.callback or _expand_home
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; convert Ctrl-C to `Interrupted`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None


def _expand_home(_ctx: Any, _param: Any, value: Any) -> Any:
    """Expand ``~/`` in an option or argument that is a path; shells leave it in ``--option=~/file``."""
    if isinstance(value, list | tuple):
        return [_expand_home(_ctx, _param, item) for item in value]
    return Path(value).expanduser() if isinstance(value, Path) and value.parts[:1] == ("~",) else value


def as_input_error(error: Any) -> InputError:
    """Convert a `UsageError` to an error whose hint is the help of the command concerned."""
    command = error.ctx.command_path if error.ctx else "ecmf-pipe"
    suggestion = None
    if typo := getattr(error, "option_name", None):
        options = [option for param in error.ctx.command.params for option in param.opts] if error.ctx else []
        suggestion = _nearest(typo, options)
    # Without the suggestions of typer, which miss abbreviated options, and the prefix of pydantic.
    text = (error.message if suggestion else error.format_message()).replace("Value error, ", "")
    message = f"{text[:1].lower()}{text[1:]}".strip().removesuffix(".")
    return InputError(message, _hint(suggestion, "options"), command=f"{command} --help")


def _nearest(typo: str, names: Iterable[str]) -> str | None:
    """Return the name that ``typo`` abbreviates or misspells; None if there is none."""
    names = list(names)
    candidates = [name for name in names if name.startswith(typo)] or difflib.get_close_matches(typo, names, n=1)
    return candidates[0] if candidates else None


def _hint(suggestion: str | None, kind: str) -> str:
    return f"did you mean {suggestion}? List the {kind} with" if suggestion else f"list the {kind} with"
