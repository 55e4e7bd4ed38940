"""Commands of `ecmf-pipe llm`; a command imports its implementation only when it runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from ecmf_pipeline.cli.usage import CommandGroup
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.files import write_atomic

llm_app = typer.Typer(
    cls=CommandGroup,
    help="List, prune and export cached LLM answers; estimate the requests of a run.",
    epilog="Example: ecmf-pipe llm plan",
)


@llm_app.command("ls")
def ls() -> None:
    """List the cached answers by settings: number of answers, invalid answers, whether in use."""
    from ecmf_pipeline.llm.inventory import cached_answer_counts, unfinished
    from ecmf_pipeline.settings.params import load_params
    from ecmf_pipeline.stages.shared.llm_questions import CACHES, fingerprints_in_use

    marks = dict.fromkeys(fingerprints_in_use(load_params()).values(), "in use")
    for answer_files, name, answers, invalid in cached_answer_counts(CACHES):
        mark = marks.get(name, "other settings")
        echo(f"{answer_files.stage} {name}: {format_count(answers, 'answer')}, {invalid} of them invalid, {mark}")
    for answer_files, name, paid in unfinished(CACHES):
        mark = marks.get(name, "other settings")
        echo(f"{answer_files.stage} {name}: {format_count(paid, 'paid answer')} of unfinished questions, {mark}")


@llm_app.command("prune", epilog="Example: ecmf-pipe llm prune --yes")
def prune(
    *, yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it, they are only listed.")] = False
) -> None:
    """Remove answers of settings other than those of params.yaml."""
    from ecmf_pipeline.llm import inventory
    from ecmf_pipeline.settings.params import load_params
    from ecmf_pipeline.stages.shared.llm_questions import CACHES, fingerprints_in_use

    in_use = set(fingerprints_in_use(load_params()).values())
    n_entries = 0
    for entry in inventory.prune(CACHES, in_use, remove=yes):
        echo(f"{entry}: {'removed' if yes else 'not in use (--yes removes it)'}")
        n_entries += 1
    if not n_entries:
        echo("nothing to remove: all answers are of the settings in params.yaml")


@llm_app.command("export", epilog="Example: ecmf-pipe llm export answers.jsonl")
def export(
    out: Annotated[
        Path,
        typer.Argument(
            help="The new .jsonl file (-: standard output), with one line for each text and raw invalid answers."
        ),
    ],
) -> None:
    """Export the answers in use together with their texts."""
    from ecmf_pipeline.settings.params import load_params
    from ecmf_pipeline.stages.shared.llm import labels_to_ask
    from ecmf_pipeline.stages.shared.llm_questions import questions

    if str(out) != "-" and out.exists():
        raise InputError(f"{out} already exists", "choose a new file")
    entries = [entry for source in questions(load_params()) for entry in source.entries(labels_to_ask())]
    lines = [json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in entries]
    if str(out) == "-":
        for line in lines:
            echo(line)
        return
    write_atomic(out, "".join(f"{line}\n" for line in lines))
    echo(f"{out}: {format_count(len(lines), 'answer')}")


@llm_app.command("plan")
def plan() -> None:
    """Estimate the requests, tokens and, if llm.prices is set, the cost of the next run, without a request."""
    from ecmf_pipeline.settings.params import load_params
    from ecmf_pipeline.stages.shared.llm_questions import questions

    params = load_params()
    total: Counter[str] = Counter()
    on_server = params.llm.backend == "openai"
    for source in questions(params):
        missing = len(source.missing())
        echo(f"{source.source}: {format_count(missing, 'question')} to ask, {len(source.keys) - missing} cached")
        if on_server:
            total.update(source.estimate())
    if not on_server:
        echo("the model runs on this machine: no requests, no cost")
        return
    cost = (total["prompts"] * params.llm.prices.prompt + total["answers"] * params.llm.prices.answer) / 1e6
    echo(
        f"{format_count(total['requests'], 'request')}: about {total['prompts']} prompt tokens and at most "
        f"{total['answers']} answer tokens" + (f", cost at most about {cost:.2f}" if cost else "")
    )
