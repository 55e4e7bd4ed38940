"""`ecmf-pipe llm`: what has been asked of language models, and what would be. A command imports what it needs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.files import write_atomic

llm_app = typer.Typer(
    help="Look at, tidy and write out the LLM's answers; count what a run would ask.", no_args_is_help=True
)


@llm_app.command("ls")
def ls() -> None:
    """Show the answers kept, by settings: texts, abstentions for want of a valid answer, and which are in use."""
    from ecmf_pipeline.llm.inventory import kept_answers, unfinished
    from ecmf_pipeline.settings.params import load_params
    from ecmf_pipeline.stages.shared.llm_questions import CACHES, fingerprints_in_use

    marks = dict.fromkeys(fingerprints_in_use(load_params()).values(), "in use")
    for books, name, answers, invalid in kept_answers(CACHES):
        mark = marks.get(name, "other settings")
        echo(f"{books.stage} {name}: {format_count(answers, 'answer')}, {invalid} without a valid one, {mark}")
    for books, name, paid in unfinished(CACHES):
        mark = marks.get(name, "other settings")
        echo(f"{books.stage} {name}: {format_count(paid, 'paid answer')} of unfinished questions, {mark}")


@llm_app.command("prune")
def prune(
    *, yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it, only say what would go.")] = False
) -> None:
    """Remove answers that were given under other settings than those of params.yaml."""
    from ecmf_pipeline.llm import inventory
    from ecmf_pipeline.settings.params import load_params
    from ecmf_pipeline.stages.shared.llm_questions import CACHES, fingerprints_in_use

    in_use = set(fingerprints_in_use(load_params()).values())
    for what in inventory.prune(CACHES, in_use, remove=yes):
        echo(f"{what}: {'removed' if yes else 'would go (--yes removes it)'}")


@llm_app.command("export")
def export(
    out: Annotated[
        Path,
        typer.Argument(help="The new .jsonl file (-: standard output): one line a text, raw invalid answers included."),
    ],
) -> None:
    """Write the answers in use with the texts they are about."""
    from ecmf_pipeline.settings.params import load_params
    from ecmf_pipeline.stages.shared.llm import labels_to_ask
    from ecmf_pipeline.stages.shared.llm_questions import questions

    if str(out) != "-" and out.exists():
        raise InputError(f"{out} is already there", "choose a new file")
    entries = [entry for asked in questions(load_params()) for entry in asked.entries(labels_to_ask())]
    lines = [json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in entries]
    if str(out) == "-":
        for line in lines:
            echo(line)
        return
    write_atomic(out, "".join(f"{line}\n" for line in lines))
    echo(f"{out}: {format_count(len(lines), 'answer')}")


@llm_app.command("plan")
def plan() -> None:
    """Count the requests, tokens and, given llm.prices, the cost of what is not known yet; nothing is asked."""
    from ecmf_pipeline.settings.params import load_params
    from ecmf_pipeline.stages.shared.llm_questions import questions

    params = load_params()
    total: Counter[str] = Counter()
    on_server = params.llm.backend == "openai"
    for asked in questions(params):
        missing = len(asked.missing())
        echo(f"{asked.source}: {format_count(missing, 'question')} to ask, {len(asked.keys) - missing} known")
        if on_server:
            total.update(asked.estimate())
    if not on_server:
        echo("of a model on this machine: no requests, no cost")
        return
    cost = (total["prompts"] * params.llm.prices.prompt + total["answers"] * params.llm.prices.answer) / 1e6
    echo(
        f"{format_count(total['requests'], 'request')}: about {total['prompts']} tokens of prompts and at most "
        f"{total['answers']} of answers" + (f", at most about {cost:.2f}" if cost else "")
    )
