"""Tests that commands, dvc.yaml and stages agree, of new projects, and of the reports of user errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc_render.vega_templates import TEMPLATES
from typer.testing import CliRunner

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.paths import DATA
from ecmf_pipeline.sharing.new_project import IGNORED, make_project

NOT_STAGES = {"status", "init", "encoders", "doctor", "score", "forget", "compare", "plan", "slurm"}


def ecmf_pipe(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ecmf_pipeline", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def project(repository, tmp_path) -> Path:
    process = ecmf_pipe("init", str(tmp_path / "project"), folder=repository)
    assert process.returncode == 0, process.stderr
    return tmp_path / "project"


DVC_STAGES = """
stages:
  fetch:
    cmd: mkdir -p data/models/minilm && echo weights > data/models/minilm/model.bin
    outs:
      - data/models: {cache: false, persist: true}
  use:
    cmd: cat data/models/minilm/model.bin > result
    deps: [data/models]
    outs: [result]
"""


@pytest.mark.slow
def test_weights_that_are_fetched_on_demand_run_no_stage_again(project, monkeypatch):
    (project / "dvc.yaml").write_text(DVC_STAGES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(project / ".cache"))

    def dvc(*arguments: str) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout

    dvc("repro")
    (folder := project / "data" / "models" / "whisper_base").mkdir()
    (folder / "model.bin").write_text("weights")
    assert dvc("status", "--quiet") == ""
    assert "Running stage" not in dvc("repro")
    (project / "data" / "models" / "other").write_text("weights")
    assert "data/models" in dvc("status")


def command_names() -> set[str]:
    return {command.callback.__name__ for command in app.registered_commands}


def test_stages_commands_and_modules_have_the_same_names(repository):
    stages = set(yaml.safe_load((repository / "dvc.yaml").read_text())["stages"])
    modules = {path.stem for path in (repository / "ecmf_pipeline" / "stages").glob("*.py")} - {"__init__"}
    assert stages == modules == command_names() - NOT_STAGES


def test_each_dvc_stage_runs_the_command_of_its_name(repository):
    for name, stage in yaml.safe_load((repository / "dvc.yaml").read_text())["stages"].items():
        assert stage.get("do", stage)["cmd"].split()[:2] == ["ecmf-pipe", name]


def test_each_command_is_in_the_reference_and_has_help(repository):
    reference = (repository / "docs" / "reference" / "cli.md").read_text()
    for name in command_names():
        assert f"ecmf-pipe {name}" in reference
        result = CliRunner().invoke(app, [name, "--help"])
        assert result.exit_code == 0
        assert len(result.output) > 100


def test_examples_in_help_are_valid_commands():
    groups = {"": app, **{group.name: group.typer_instance for group in app.registered_groups}}
    for group_name, group in groups.items():
        for command in group.registered_commands:
            if command.epilog:
                name = command.name or command.callback.__name__
                prefix = " ".join(filter(None, ("ecmf-pipe", group_name, name)))
                example = command.epilog.removeprefix("Example: ")
                assert f"{example} ".startswith(f"{prefix} ")
                options = {word for word in example.split() if word.startswith("--")}
                help_text = CliRunner().invoke(app, [*prefix.split()[1:], "--help"], env={"COLUMNS": "200"}).output
                assert all(option in help_text for option in options), example


def test_outputs_that_are_caches_persist(repository):
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    for name in ("models", "sample", "segment", "index", "settings", "transcribe", "rewrite", "extract", "vote"):
        outs = stages[name].get("do", stages[name])["outs"]
        assert all(isinstance(out, dict) and next(iter(out.values()))["persist"] for out in outs), name


def test_dvc_shows_one_metrics_file_and_plots_of_outputs(repository):
    document = yaml.safe_load((repository / "dvc.yaml").read_text())
    stages = [stage.get("do", stage) for stage in document["stages"].values()]
    assert [metrics for stage in stages for metrics in stage.get("metrics", ())] == [
        {"data/metrics/summary.json": {"cache": False}}
    ]
    outs = {out if isinstance(out, str) else next(iter(out)) for stage in stages for out in stage["outs"]}
    outs |= {f"data/metrics/plots/training_{labels}.csv" for labels in ("given", "refined")}
    plots = [plot for entry in document["plots"] for plot in entry.values()]
    assert len(plots) == 5
    assert {path for plot in plots for path in plot["y"]} <= outs
    assert {plot["template"] for plot in plots} <= {template.DEFAULT_NAME for template in TEMPLATES}


def test_all_outputs_are_in_the_data_folder(repository):
    text = (repository / "dvc.yaml").read_text()
    paths = re.findall(r"\bdata/[\w./${}-]+", text)
    assert paths
    assert all(path.startswith(f"{DATA}/") for path in paths)


def test_help_imports_no_heavy_library():
    code = (
        "import sys, time; from ecmf_pipeline.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.stderr.write(str([name for name in ('torch', 'numpy', 'zarr', 'pandas') if name in sys.modules]))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "extract" in process.stdout
    assert process.stderr == "[]"


def test_git_ignores_all_outputs_that_dvc_tracks(repository, project):
    ignored = {f"{folder}/{name}" for folder, names in IGNORED.items() for name in names}
    tracked = set()
    for stage in yaml.safe_load((repository / "dvc.yaml").read_text())["stages"].values():
        # The items of `cues` come from params; all possible items are ignored.
        items_from_params = isinstance(stage.get("foreach"), str)
        for item in ("face", "audio") if items_from_params else stage.get("foreach") or [None]:
            values = stage["foreach"][item] if isinstance(stage.get("foreach"), dict) else {}
            for out in stage.get("do", stage)["outs"]:
                path, options = next(iter(out.items())) if isinstance(out, dict) else (out, {})
                for name, value in values.items():
                    path = path.replace(f"${{item.{name}}}", value)
                if options.get("cache", True):
                    tracked.add(path.replace("${key}", str(item)).replace("${item}", str(item)))
    untracked = {f"data/.index{name}" for name in ("-cache.json", ".spool", ".lock")}
    untracked |= {"data/.last-scan.json", "data/.last-segmentation.json", "data/.digests.json", "data/.segments.spool"}
    untracked |= {"data/.resources.json", "data/.trial.json", "data/.shards", "data/features/.shards"}
    untracked |= {"data/.languages.npz", "data/.translation-languages.npz"}
    untracked |= {"data/.transcripts.spool", "data/.rewrite.spool", "data/.votes.spool", "data/transfer.json"}
    untracked |= {f"data/quarantine/vote-{name}.csv" for name in ("cues", "frames", "examples-*")}
    untracked |= {f"data/features/.*.zarr.{name}" for name in ("spool", "lock", "damaged")}
    untracked |= {"/dvc_plots", "data/models"}
    assert ignored == tracked | untracked
    assert (project / "data" / "features" / ".gitignore").read_text().splitlines()[0] == "/global.zarr"


def test_this_repository_ignores_outputs_too(repository):
    for folder, names in IGNORED.items():
        assert {f"/{name}" for name in names} <= set((repository / folder / ".gitignore").read_text().splitlines())
    files = subprocess.run(
        ["git", "ls-files", "data"], cwd=repository, capture_output=True, text=True, check=False
    ).stdout.split()  # empty outside a checkout
    assert {Path(path).name for path in files} <= {".gitignore"}, "DVC rejects outputs that git tracks"


def git(folder: Path, *arguments: str, **environment: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=True
    ).stdout


IDENTITY = {f"GIT_{who}_{what}": "someone@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
NO_IDENTITY = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def init(folder: Path, *arguments: str, **environment: str) -> str:
    """Run init in ``folder`` by its absolute path, without the environment of Python on the path."""
    command = [str(Path(sys.executable).parent / "ecmf-pipe"), "init", *arguments]
    system = {"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[2])}
    keep = {name: value for name, value in os.environ.items() if name == "HOME"}
    process = subprocess.run(
        command, cwd=folder, env=keep | system | environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.slow
def test_new_project_is_committed_and_the_environment_need_not_be_active(tmp_path):
    (tmp_path / "new project").mkdir()
    (tmp_path / "new project" / "clip.mp4").write_bytes(b"a clip")
    commands = init(tmp_path, "new project", **NO_IDENTITY, **IDENTITY).splitlines()[1:]
    assert [command.strip() for command in commands] == [
        "cd 'new project'",
        f"export PATH={Path(sys.executable).parent}:$PATH",
        "ecmf-pipe models && ecmf-pipe doctor",
        "dvc repro",
    ]
    project = tmp_path / "new project"
    assert git(project, "status", "--short") == "?? clip.mp4\n", "files of the user are theirs to commit"
    assert len(git(project, "log", "--oneline").splitlines()) == 1
    (project / "dvc_plots").mkdir()
    (project / "dvc_plots" / "index.html").write_text("")
    assert git(project, "status", "--short") == "?? clip.mp4\n"


def test_without_git_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError) as caught:
        make_project(tmp_path / "project")
    assert "git" in caught.value.message
    assert not list((tmp_path / "project").iterdir())


def test_a_folder_that_git_ignores_stays_empty(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("/work\n")
    with pytest.raises(InputError) as caught:
        make_project(tmp_path / "work" / "project")
    assert "ignores" in caught.value.message
    assert not list((tmp_path / "work" / "project").iterdir())


def test_a_failure_of_dvc_is_reported_and_the_command_can_be_repeated(tmp_path):
    (tmp_path / "project").mkdir()
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text(".dvc\n")
    with pytest.raises(InputError) as caught:
        make_project(tmp_path / "project")
    assert "ignored" in caught.value.message
    (tmp_path / ".gitignore").unlink()
    assert not make_project(tmp_path / "project")
    assert (tmp_path / "project" / "params.yaml").is_file()


def test_a_file_is_no_project_folder(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "project"):
        with pytest.raises(InputError, match="is not a folder"):
            make_project(folder)


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["no identity", "existing repository"])
def test_init_prints_the_command_of_a_commit_that_it_does_not_make(tmp_path, reason):
    if reason == "existing repository":
        git(tmp_path, "init", "--quiet")
    environment = NO_IDENTITY | (IDENTITY if reason == "existing repository" else {})
    (commit,) = [line for line in init(tmp_path, ".", **environment).splitlines() if "git commit" in line]
    subprocess.run(commit, shell=True, cwd=tmp_path, env=os.environ | IDENTITY, check=True, capture_output=True)
    assert git(tmp_path, "status", "--short") == ""


def test_new_project_has_dvc_yaml_params_and_dvc_config(project):
    assert (project / "dvc.yaml").is_file()
    assert (project / "params.yaml").is_file()
    assert (project / ".dvc" / "config").is_file()
    again = ecmf_pipe("init", ".", folder=project)
    assert again.returncode == 2
    assert again.stderr.startswith("error: dvc.yaml ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "params", "expected"),
    [
        (["index"], "corpus: {kind: folder, root: nowhere}", "nowhere"),
        (["index"], "corpus: {kind: mer, root: empty}", "empty"),
        (["index"], "corpus: {kind: folder, root: empty}", "empty"),
        (["index"], "", "ecmf-pipe sample"),
        (["extract"], "", "ecmf-pipe index"),
        (["train"], "", "ecmf-pipe index"),
        (["evaluate"], "", "ecmf-pipe index"),
        (["report"], "", "ecmf-pipe index"),
        (["index"], "corpuss: {}", "did you mean 'corpus'?"),
        (["extract", "--modality", "smell"], "", "smell"),
        (["extrakt"], "", "extrakt"),
        (["sample"], "", "ecmf-pipe models"),
    ],
)
def test_user_errors_print_one_message_and_exit_with_code_2(tmp_path, arguments, params, expected):
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "empty").mkdir()
    process = ecmf_pipe(*arguments, folder=tmp_path)
    assert process.returncode == 2, process.stderr
    assert process.stderr.startswith("error: ")
    assert expected in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_commands_outside_a_project_report_the_missing_params(tmp_path):
    commands = [[name] for name in sorted(command_names() - {"init", "score", "compare"})]
    for words in (
        *commands,
        ["store", "ls"],
        ["store", "verify"],
        ["store", "compact"],
        ["llm", "ls"],
        ["llm", "prune"],
    ):
        process = ecmf_pipe(*words, folder=tmp_path)
        assert process.returncode == 2, words
        assert "params.yaml" in process.stderr
        assert process.stderr.splitlines()[-1].strip() == "ecmf-pipe init FOLDER"
