"""Commands of `ecmf-pipe review`; a command imports its implementation only when it runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ecmf_pipeline.cli.usage import CommandGroup


class ReviewGroup(CommandGroup):
    """A group that starts the page if no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options of the group, which may be all there is."""
        return TyperGroup.parse_args(self, ctx, args)


class ExportFormat(StrEnum):
    """Tools for which clips can be exported."""

    LABEL_STUDIO = "label-studio"


review_app = typer.Typer(
    cls=ReviewGroup,
    invoke_without_command=True,
    help="Settle doubtful labels in the browser, most informative clips first; the answers are appended to "
    "labels/verdicts.csv, from which `refine` learns.",
    epilog="Example: ecmf-pipe review --reviewer Anna",
)


@review_app.callback()
def review(
    ctx: typer.Context,
    host: Annotated[
        str, typer.Option(help="Host to listen on. Others than this machine need ECMF_REVIEW_PASSWORD.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0: a free one. Default: 8350, or a free one.")
    ] = None,
    reviewer: Annotated[
        str, typer.Option(help="Your name, stored with each answer. Default: the name in Git; the page can change it.")
    ] = "",
    *,
    show_others: Annotated[
        bool, typer.Option("--show-others", help="Show the answers of other reviewers; by default each is blind.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser of this machine.")] = False,
) -> None:
    """Serve the review page of the project until Ctrl-C."""
    if ctx.invoked_subcommand is None:
        from ecmf_pipeline.review.serve import run

        run(host=host, port=port, reviewer=reviewer, show_others=show_others, open_browser=open_browser)


@review_app.command("export", epilog="Example: ecmf-pipe review export --to label-studio --out tasks.json")
def export_command(
    to: Annotated[ExportFormat, typer.Option(help="The tool.")],
    out: Annotated[Path, typer.Option(help="File of the tasks; the labelling interface is written beside it.")] = Path(
        "label-studio.json"
    ),
    media_url: Annotated[
        str, typer.Option(help="URL of the corpus folder, to which the path of each clip is appended.")
    ] = "/data/local-files/?d=",
    count: Annotated[int, typer.Option(min=1, help="Number of clips, most informative first.")] = 100,
) -> None:
    """Write the clips to label next as tasks of another tool, with the present labels as predictions."""
    from ecmf_pipeline.review.label_studio import export_tasks

    if to is ExportFormat.LABEL_STUDIO:
        export_tasks(out, media_url, count)


@review_app.command("import", epilog="Example: ecmf-pipe review import project-1.json")
def import_command(
    file: Annotated[Path, typer.Argument(help="JSON export of Label Studio, or a csv file: name,label,reviewer.")],
    reviewer: Annotated[str, typer.Option(help="Name of the reviewer of rows without one.")] = "",
) -> None:
    """Append the answers in a file to labels/verdicts.csv; answers that are there already are not repeated."""
    from ecmf_pipeline.review.label_studio import import_answers

    import_answers(file, reviewer)


@review_app.command("agreement")
def agreement_command() -> None:
    """Print how far reviewers agree: Krippendorff's alpha, and the answers that they confuse."""
    from ecmf_pipeline.review.agreement import show_agreement

    show_agreement()
