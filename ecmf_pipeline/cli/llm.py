"""`ecmf-pipe llm`: what has been asked of language models, and what would be. A command imports what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

llm_app = typer.Typer(
    help="Look at, tidy and write out the LLM's answers; count what a run would ask.", no_args_is_help=True
)


@llm_app.command("ls")
def ls_command() -> None:
    """Show the answers kept, by settings: texts, abstentions for want of a valid answer, and which are in use."""
    from ecmf_pipeline.cli import llm_commands

    llm_commands.ls()


@llm_app.command("prune")
def prune_command(
    *, yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it, only say what would go.")] = False
) -> None:
    """Remove answers that were given under other settings than those of params.yaml."""
    from ecmf_pipeline.cli import llm_commands

    llm_commands.prune(yes=yes)


@llm_app.command("export")
def export_command(
    out: Annotated[
        Path,
        typer.Argument(help="The new .jsonl file (-: standard output): one line a text, raw invalid answers included."),
    ],
) -> None:
    """Write the answers in use with the texts they are about."""
    from ecmf_pipeline.cli import llm_commands

    llm_commands.export(out)


@llm_app.command("plan")
def plan_command() -> None:
    """Count the requests, tokens and, given llm.prices, the cost of what is not known yet; nothing is asked."""
    from ecmf_pipeline.cli import llm_commands

    llm_commands.plan()
