"""Projections from the stored trial of `doctor`, and the jobs of a Slurm cluster."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.cli.usage import UsageError, as_input_error
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Modality, read_manifest, write_corpus_tables
from ecmf_pipeline.core.errors import EcmfError, InputError, MissingInput
from ecmf_pipeline.core.files import fingerprint, write_local_cache, write_sealed_json
from ecmf_pipeline.core.resources import read_resources
from ecmf_pipeline.core.shards import Shard
from ecmf_pipeline.doctor import projection
from ecmf_pipeline.doctor.machines import GPUS, Machine, find_gpu
from ecmf_pipeline.doctor.projection import (
    ONE_MACHINE,
    Cost,
    project,
    read_trial,
    seconds_of_text,
    show_plan,
)
from ecmf_pipeline.doctor.slurm import Job, show_jobs
from ecmf_pipeline.doctor.trial import TimedStep, opening_share
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.status import stage_rows
from ecmf_pipeline.store import FeatureRow, StoreWriter, create_settings_group
from ecmf_pipeline.store.shards import shard_root
from tests.runner.doubling import DoublingStep, Number

CLIPS = 50


@pytest.fixture
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Path) -> Path:
    """A project of fifty clips whose trial took a second a clip for each modality, a quarter of it for decoding."""
    monkeypatch.chdir(tmp_path)
    paths.DATA.mkdir()
    paths.MODELS.symlink_to(models.resolve())
    Path("params.yaml").write_text(
        "corpus: {kind: folder, root: corpus}\nextract: {encoders: {global: efficientnet_lite0, audio: egemaps}}\n"
        "vote: {inputs: []}\n"
    )
    Path("corpus").mkdir()
    clips = [
        Clip(ClipId(f"clip{number:02d}"), f"{number}.mp4", f"{number:064d}", has_video=True, has_audio=True)
        for number in range(CLIPS)
    ]
    write_corpus_tables(Corpus(clips, ["happy", "sad"], [], synthetic=False))
    figures = {"seconds_a_clip": 1.0, "bytes_a_clip": 1000.0, "opening_share": 0.25, "files_of_part": 5}
    device = {"device": "cpu", "gpu": "", "workers": 2, "cores": 2}
    write_sealed_json(paths.TRIAL, {"device": device, "trial global": figures, "trial audio": figures})
    return tmp_path


def costs(machine: Machine, clips: int = 10_000_000) -> dict[str, Cost]:
    return {cost.stage: cost for cost in project(load_params(), read_trial(), clips, machine, read_resources())}


def record_runs(**seconds: float) -> None:
    """Record a run of each command, over the fifty clips, as the command line would."""
    runs = {
        name.replace("_", " --", 1).replace("_", " "): {
            "longest": {"seconds": value, "cpu_seconds": value, "clips": 50}
        }
        for name, value in seconds.items()
    }
    write_local_cache(paths.RESOURCES, runs)


@pytest.mark.usefixtures("project_folder")
def test_recorded_runs_give_the_times_that_doctor_does_not_measure(capsys: pytest.CaptureFixture[str]):
    record_runs(index=5.0, train=10.0, train_labels_refined=20.0, vote=1.0, vote_shard_1=900.0)
    projected = costs(Machine(gpus=8), 100)
    assert projected["index"] == Cost("index", 10.0, projected["index"].bytes, 7, ONE_MACHINE, from_runs=True)
    assert projected["train"].seconds == 2 * (10 + 20), "of given and of refined labels"
    assert projected["vote"].seconds == 2, "a shard is no run of the stage"
    assert projected["refine"].seconds is None
    show_plan(load_params(), 36_000, Machine("h100", gpus=8, price=2.0))
    output = capsys.readouterr().out
    index = next(line for line in output.splitlines() if line.startswith("index"))
    assert " 2.00 " in index, "an hour of one of the machines"
    unmeasured = next(line for line in output.splitlines() if "NOT MEASURED" in line)
    assert "refine" in unmeasured
    assert "train" not in unmeasured


@pytest.mark.usefixtures("project_folder")
def test_a_run_without_a_number_of_clips_is_taken_for_one_of_the_manifest():
    write_local_cache(paths.RESOURCES, {"refine": {"longest": {"seconds": 5.0, "cpu_seconds": 5.0}}})
    assert costs(Machine(), 100)["refine"].seconds == 10
    paths.MANIFEST.unlink()
    assert costs(Machine(), 100)["refine"].seconds is None


@pytest.mark.usefixtures("project_folder")
@pytest.mark.parametrize("is_merged", [True, False])
def test_no_job_is_printed_if_nothing_is_missing(is_merged: bool, capsys: pytest.CaptureFixture[str]):
    settings = load_params().settings_of(Modality.GLOBAL)
    root = paths.features(Modality.GLOBAL)
    root = root if is_merged else shard_root(root, Shard(1, 9))
    create_settings_group(root, settings, dim=4, dtype="float32")
    with StoreWriter(root, fingerprint(settings)) as writer:
        rows = read_manifest(paths.MANIFEST)
        writer.append(FeatureRow(clip.clip_id, clip.digest, np.ones((1, 4), np.float32)) for clip in rows)
    for shards in (None, 3):
        show_jobs(load_params(), "extract", [Modality.GLOBAL], Job(4, Machine()), shards)
        lines = capsys.readouterr().out.splitlines()
        assert all(line.startswith("#") for line in lines)
        assert ("# run: ecmf-pipe extract" in lines) != is_merged


@pytest.mark.usefixtures("project_folder")
def test_storage_and_files_grow_with_clips_and_time_shrinks_with_machines():
    (paths.DATA / "predictions").mkdir()
    (paths.DATA / "predictions" / ".gitignore").write_text("/given\n")  # of a new project
    one, eight = costs(Machine(cores=4)), costs(Machine(gpus=8, cores=4))
    assert one["extract audio"].seconds == 10_000_000 / 4
    assert eight["extract audio"].seconds == 10_000_000 / 32
    assert one["extract audio"].bytes == eight["extract audio"].bytes == 1e10
    assert one["extract audio"].files == 5 * -(-10_000_000 // 1024)
    assert one["predict"] == Cost("predict"), "what was neither measured nor written is unknown"


@pytest.mark.usefixtures("project_folder")
def test_a_gpu_runs_only_networks_of_torch_and_decoding_limits_it():
    on_gpu = costs(Machine("h100", cores=4))
    assert (on_gpu["extract global"].seconds, on_gpu["extract global"].limit) == (10_000_000 * 0.25 / 4, "cores")
    assert on_gpu["extract audio"].seconds == 10_000_000 / 4
    many_cores = costs(Machine("t4", cores=10_000))
    assert many_cores["extract global"].limit == "gpu"


def store_trial(gpu: str, *names: str) -> None:
    """Store a trial as `doctor` would on a GPU."""
    figures = {"seconds_a_clip": 1.0, "bytes_a_clip": 1000.0, "opening_share": 0.25, "files_of_part": 5}
    device = {"device": "cuda", "gpu": gpu, "workers": 1, "cores": 2}
    llm = {"seconds_a_text": 1.0}
    write_sealed_json(paths.TRIAL, {"device": device, "llm": llm} | {f"trial {name}": figures for name in names})


@pytest.mark.usefixtures("project_folder")
def test_a_trial_on_a_gpu_is_projected_to_slower_cores():
    store_trial("NVIDIA H100 80GB HBM3", "global", "audio")
    on_cores, on_gpu = costs(Machine(cores=4), 1), costs(Machine("h100", cores=4), 1)
    slower = 0.25 * 989 / 0.1
    assert on_cores["extract global"].seconds == pytest.approx((0.25 + 0.75 * slower) / 4)
    assert on_cores["extract audio"].seconds == 1 / 4, "no network of torch: the cores computed it in the trial too"
    assert on_gpu["extract global"].seconds == 0.75
    assert seconds_of_text(load_params(), read_trial(), Machine("h100")) == 1
    assert seconds_of_text(load_params(), read_trial(), Machine(cores=4)) == pytest.approx(slower / 4)


@pytest.mark.usefixtures("project_folder")
def test_an_unknown_gpu_of_the_trial_is_not_taken_for_a_wrong_option():
    store_trial("Voodoo 2", "global", "audio")
    with pytest.raises(InputError, match="doctor measured on"):
        costs(Machine("h100"))


@pytest.mark.usefixtures("project_folder")
def test_each_of_several_encoders_is_projected_and_counted(capsys: pytest.CaptureFixture[str]):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("audio: egemaps", "face: [efficientnet_lite0, mini_xception]"))
    names = ["face.efficientnet_lite0", "face.mini_xception"]
    store_trial("", *names)
    projected = costs(Machine(cores=1), 1)
    assert [projected[f"extract {name}"].seconds for name in names] == [1, 1]
    show_jobs(load_params(), "extract", [Modality.FACE], Job(hours=25 / 3600 / 0.8, machine=Machine(cores=1)))
    assert "#SBATCH --array=1-4\n" in capsys.readouterr().out, "a hundred features of a second, 25 s a job"


@pytest.mark.usefixtures("project_folder")
@pytest.mark.parametrize("stage", ["transcribe", "vote"])
def test_the_number_of_jobs_of_an_unmeasured_stage_is_given(stage: str, capsys: pytest.CaptureFixture[str]):
    paths.TRIAL.unlink()
    with pytest.raises(MissingInput, match="not measured") as caught:
        show_jobs(load_params(), stage, [], Job(4, Machine()))
    assert not caught.value.command, "doctor does not measure it"
    show_jobs(load_params(), stage, [], Job(4, Machine()), 7)
    assert f"ecmf-pipe {stage} --workers" in capsys.readouterr().out


@pytest.mark.usefixtures("project_folder")
def test_no_jobs_are_printed_that_would_fail_for_want_of_texts():
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("audio: egemaps", "text: minilm"))
    with pytest.raises(MissingInput) as caught:
        show_jobs(load_params(), "extract", [], Job(4, Machine()), 3)
    assert caught.value.command == "ecmf-pipe rewrite"


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("H100", "h100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("RTX 4090", "rtx4090"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA L4", "l4"),
    ],
)
def test_names_of_devices_are_known(name: str, gpu: str):
    assert find_gpu(name) == gpu


@pytest.mark.parametrize("name", ["voodoo2", "NVIDIA RTX A4000", "NVIDIA T400", "NVIDIA RTX A1000"])
def test_an_unknown_gpu_is_wrong_input_that_lists_the_known_ones(name: str):
    with pytest.raises(InputError) as caught:
        find_gpu(name)
    assert all(gpu in str(caught.value) for gpu in GPUS)


def test_without_a_trial_the_command_that_measures_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("corpus: {kind: folder, root: corpus}\n")
    with pytest.raises(MissingInput) as caught:
        show_plan(load_params(), 1000, Machine())
    assert caught.value.command == "ecmf-pipe doctor"


@pytest.mark.usefixtures("project_folder")
def test_assumptions_and_costs_are_printed(capsys: pytest.CaptureFixture[str]):
    app(["plan", "--clips", "10_000_000", "--gpu", "h100", "--price", "2.5"], standalone_mode=False)
    output = capsys.readouterr().out
    assert "10,000,000 clips on 1 x h100" in output
    assert "ASSUMED, not measured" in output
    hours = 10_000_000 / 16 / 3600
    assert f"{2.5 * hours:,.2f}" in output


@pytest.mark.usefixtures("project_folder")
def test_columns_are_as_wide_as_the_names_of_encoders(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    names = ["extract text.a_name_of_many_words", "extract text.b"]
    monkeypatch.setattr(projection, "project", lambda *_: [Cost(name, 60.0, 1000, 5, "") for name in names])
    app(["plan", "--clips", "100"], standalone_mode=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("extract")]
    assert len(lines) == 2
    assert len(set(map(len, lines))) == 1


@pytest.mark.usefixtures("project_folder")
@pytest.mark.parametrize(
    "words",
    [
        ["plan", "--clips", "-5"],
        ["plan", "--clips", "0"],
        ["plan", "--clips", "many"],
        ["plan", "--price", "cheap"],
        ["plan", "--price", "-1"],
        ["plan", "--price", "nan"],
        ["plan", "--gpu", "voodoo2"],
        ["slurm", "--stage", "train"],
        ["slurm", "--hours", "0"],
        ["slurm", "--shards", "0"],
        ["extract", "--shard", "9/8"],
        ["transcribe", "--shard", "0/8"],
        ["rewrite", "--shard", "eight"],
        ["vote", "--shard", "1"],
    ],
)
def test_wrong_options_exit_with_code_2(words: list[str]):
    with pytest.raises((EcmfError, UsageError)) as caught:
        app(words, standalone_mode=False)
    error = caught.value
    assert (error if isinstance(error, EcmfError) else as_input_error(error)).exit_code == 2


@pytest.mark.usefixtures("project_folder")
def test_the_number_of_jobs_follows_from_the_trial_and_the_time_limit(capsys: pytest.CaptureFixture[str]):
    job = Job(hours=50 / 3600 / 0.8 / 4, machine=Machine(cores=1))  # a quarter of the fifty seconds of audio
    show_jobs(load_params(), "extract", [Modality.AUDIO], job)
    assert "#SBATCH --array=1-4\n" in capsys.readouterr().out


@pytest.mark.usefixtures("project_folder")
def test_the_printed_script_submits_an_array_and_a_job_that_waits_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    show_jobs(load_params(), "extract", [Modality.AUDIO], Job(4, Machine("a100", cores=6), options=("--account=x",)), 3)
    script = capsys.readouterr().out
    programs = tmp_path / "bin"
    programs.mkdir()
    # As sbatch: an array runs its script once for each number, and --parsable prints the id of the job.
    (programs / "sbatch").write_text(
        '#!/bin/bash\nscript=$(cat); echo "$@" >> sbatch.log; echo "$script" >> sbatch.log\n'
        'last=$(echo "$script" | sed -n "s/^#SBATCH --array=1-//p")\n'
        'for SLURM_ARRAY_TASK_ID in $(seq ${last:-1}); do export SLURM_ARRAY_TASK_ID; bash -c "$script" >&2; done\n'
        '[ "$1" = --parsable ] && echo "17;cluster" || true\n'
    )
    (programs / "ecmf-pipe").write_text('#!/bin/bash\necho "$@" >> calls.log\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run(["bash"], input=script, text=True, env=environment, check=True, cwd=tmp_path)
    expected = [f"extract --modality audio --workers 1 --shard {number}/3" for number in (1, 2, 3)]
    assert (tmp_path / "calls.log").read_text().splitlines() == [*expected, "extract --modality audio"]
    submitted = (tmp_path / "sbatch.log").read_text()
    assert "--dependency=afterany:17\n" in submitted
    assert submitted.count("#SBATCH --account=x") == submitted.count("#SBATCH --gres=gpu:1") == 2


@pytest.mark.usefixtures("project_folder")
def test_status_counts_the_features_of_shards_that_are_not_merged():
    params = load_params()
    settings = params.settings_of(Modality.GLOBAL)
    root = shard_root(paths.features(Modality.GLOBAL), Shard(1, 9))
    create_settings_group(root, settings, dim=4, dtype="float32")
    with StoreWriter(root, fingerprint(settings)) as writer:
        writer.append(
            FeatureRow(clip.clip_id, clip.digest, np.ones((1, 4), np.float32))
            for clip in read_manifest(paths.MANIFEST)[:3]
        )
    rows = {name: row for name, *row in stage_rows(params)}
    assert rows["extract global"][:2] == [3, CLIPS - 3]


def test_phases_of_a_trial_are_timed(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("open 5.0\nwork 9.0\nopen 1.0\nwork 3.0\nopen 1.0\nwork 3.0\n")
    assert opening_share(log) == 0.25
    assert opening_share(tmp_path / "none") == 0.0
    step = TimedStep(DoublingStep(tmp_path, 0), tmp_path / "new")
    step.open(Number(3))
    assert (tmp_path / "new").read_text().startswith("open ")
