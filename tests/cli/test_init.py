"""The command line, dvc.yaml and stages/ are one set; a new project; what a user sees when something is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.core.paths import DATA
from ecmf_pipeline.sharing.new_project import IGNORED

NOT_STAGES = {"status", "init", "encoders", "doctor", "score"}


def ecmf_pipe(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ecmf_pipeline", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def project(repository, tmp_path) -> Path:
    made = ecmf_pipe("init", str(tmp_path / "project"), folder=repository)
    assert made.returncode == 0, made.stderr
    return tmp_path / "project"


def verbs() -> set[str]:
    return {command.callback.__name__ for command in app.registered_commands}


def test_stages_verbs_and_modules_are_the_same_set(repository):
    stages = set(yaml.safe_load((repository / "dvc.yaml").read_text())["stages"])
    modules = {path.stem for path in (repository / "ecmf_pipeline" / "stages").glob("*.py")} - {"__init__"}
    assert stages == modules == verbs() - NOT_STAGES


def test_every_stage_of_dvc_runs_its_own_verb(repository):
    for name, stage in yaml.safe_load((repository / "dvc.yaml").read_text())["stages"].items():
        assert stage.get("do", stage)["cmd"].split()[:2] == ["ecmf-pipe", name]


def test_every_verb_is_in_the_readme_and_has_help(repository):
    readme = (repository / "README.md").read_text()
    for verb in verbs():
        assert f"`{verb}`" in readme or f"ecmf-pipe {verb}" in readme
        shown = CliRunner().invoke(app, [verb, "--help"])
        assert shown.exit_code == 0
        assert len(shown.output) > 100


def test_caches_are_kept_when_dvc_runs_a_stage_again(repository):
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    for name in ("models", "sample", "index", "settings", "transcribe", "rewrite", "extract", "vote"):
        outs = stages[name].get("do", stages[name])["outs"]
        assert all(isinstance(out, dict) and next(iter(out.values()))["persist"] for out in outs), name


def test_all_outputs_stay_below_data(repository):
    text = (repository / "dvc.yaml").read_text()
    paths = re.findall(r"\bdata/[\w./${}-]+", text)
    assert paths
    assert all(path.startswith(f"{DATA}/") for path in paths)


def test_help_loads_no_torch():
    code = (
        "import sys, time; from ecmf_pipeline.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.stderr.write(str([name for name in ('torch', 'numpy', 'zarr', 'pandas') if name in sys.modules]))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "extract" in shown.stdout
    assert shown.stderr == "[]"


def test_git_ignores_all_that_dvc_keeps(repository, project):
    listed = {f"{folder}/{name}" for folder, names in IGNORED.items() for name in names}
    kept = set()
    for stage in yaml.safe_load((repository / "dvc.yaml").read_text())["stages"].values():
        # What is listed in params, as of `cues`, may be any of its values.
        listed_in_params = isinstance(stage.get("foreach"), str)
        for item in ("face", "audio") if listed_in_params else stage.get("foreach") or [None]:
            values = stage["foreach"][item] if isinstance(stage.get("foreach"), dict) else {}
            for out in stage.get("do", stage)["outs"]:
                path, options = next(iter(out.items())) if isinstance(out, dict) else (out, {})
                for name, value in values.items():
                    path = path.replace(f"${{item.{name}}}", value)
                if options.get("cache", True):
                    kept.add(path.replace("${key}", str(item)).replace("${item}", str(item)))
    beside = {f"data/.index{name}" for name in ("-cache.json", ".spool", ".lock")}
    beside |= {"data/.last-scan.json", "data/.digests.json"}
    beside |= {"data/.transcripts.spool", "data/.rewrite.spool", "data/.votes.spool", "data/transfer.json"}
    beside |= {f"data/quarantine/vote-{name}.csv" for name in ("cues", "frames", "examples-*")}
    beside |= {f"data/features/.*.zarr.{name}" for name in ("spool", "lock", "damaged")}
    assert listed == kept | beside
    assert (project / "data" / "features" / ".gitignore").read_text().splitlines()[0] == "/global.zarr"


def test_this_repository_ignores_it_too(repository):
    for folder, names in IGNORED.items():
        assert {f"/{name}" for name in names} <= set((repository / folder / ".gitignore").read_text().splitlines())
    listed = subprocess.run(
        ["git", "ls-files", "data"], cwd=repository, capture_output=True, text=True, check=False
    ).stdout.split()  # nothing outside of a checkout
    assert {Path(path).name for path in listed} <= {".gitignore"}, "DVC refuses to make what Git tracks"


def test_a_new_project_has_all_it_needs(project):
    assert (project / "dvc.yaml").is_file()
    assert (project / "params.yaml").is_file()
    assert (project / ".dvc" / "config").is_file()
    again = ecmf_pipe("init", ".", folder=project)
    assert again.returncode == 2
    assert "already there" in again.stderr


@pytest.mark.parametrize(
    ("words", "params", "message"),
    [
        (["index"], "corpus: {kind: folder, root: nowhere}", "nowhere"),
        (["index"], "corpus: {kind: mer, root: empty}", "empty"),
        (["index"], "corpus: {kind: folder, root: empty}", "empty"),
        (["index"], "", "ecmf-pipe sample"),
        (["extract"], "", "ecmf-pipe index"),
        (["train"], "", "ecmf-pipe index"),
        (["evaluate"], "", "ecmf-pipe index"),
        (["report"], "", "ecmf-pipe index"),
        (["index"], "corpuss: {}", "did you mean `corpus`?"),
        (["extract", "--modality", "smell"], "", "smell"),
        (["extrakt"], "", "extrakt"),
        (["sample"], "", "ecmf-pipe models"),
    ],
)
def test_wrong_input_gives_one_clear_message_and_exit_code_2(tmp_path, words, params, message):
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "empty").mkdir()
    done = ecmf_pipe(*words, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_outside_a_project_every_verb_says_so(tmp_path):
    for verb in sorted(verbs() - {"init", "score"}):
        done = ecmf_pipe(verb, folder=tmp_path)
        assert done.returncode == 2, verb
        assert "params.yaml is not in" in done.stderr
