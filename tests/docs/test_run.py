"""The files of a run are those of the reference, and the commands of the documentation run in a project."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ecmf_pipeline.cli.main import app
from tests.docs.pages import commands
from tools.reference.files import FileEntry, entry_of, template_pattern

pytestmark = pytest.mark.slow

PARAMS = """
sample: {labelled: 12, unlabeled: 3, speakers: 4, min_seconds: 1.5, max_seconds: 2.0}
index: {workers: 0}
extract: {encoders: {audio: egemaps, text: minilm}, workers: 0}
llm: {workers: 0}
train: {pool: mean, training: {folds: 2, seeds: 1, epochs: 2}}
vote: {folds: 2, lightgbm: {rounds: 2}}
evaluate: {draws: 100, fusion_controls: false}
ablate: {seeds: 1, fusions: [concat], draws: 100}
"""

STAGES = (
    "models sample index settings extract transcribe rewrite train predict vote refine train:refined predict:refined "
    "evaluate ablate report"
)

NOT_RUN = {"init", "doctor", "plan", "slurm", "compare", "forget", "review", "score"}
"""Commands of pages that need other files, commits or a trial of `doctor`, or time; their own tests run them."""


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, f"{words}: {result.output} {result.exception!r}"
    return result.output


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Path]:
    """A project in which all stages have run on audio and text; the current directory."""
    folder = tmp_path_factory.mktemp("docs") / "project"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        run("init", str(folder))
        patch.chdir(folder)
        shutil.copytree(models, folder / "data" / "models")
        document = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        for section, values in yaml.safe_load(PARAMS).items():
            document[section] |= values
        (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        for stage in STAGES.split():
            name, _, labels = stage.partition(":")
            if name == "extract":
                for modality in ("global", "face", "audio"):
                    run("extract", "--modality", modality)
            else:
                run(name, *(["--labels", labels] if labels else []))
            if name == "rewrite":
                run("extract", "--modality", "text")
        yield folder


def files(project: Path) -> list[str]:
    return sorted(path.relative_to(project).as_posix() for path in (project / "data").rglob("*") if path.is_file())


def test_each_file_of_a_run_is_described(project: Path) -> None:
    assert [path for path in files(project) if entry_of(path) is None and not path.endswith(".gitignore")] == []


def test_each_csv_file_has_the_described_columns(project: Path) -> None:
    checked = 0
    for path in files(project):
        entry = entry_of(path)
        if entry is None or not entry.columns or not path.endswith(".csv") or not (project / path).stat().st_size:
            continue
        with (project / path).open(newline="", encoding="utf-8") as file:
            header = next(csv.reader(file))
        assert unknown_names(header, entry.columns) == [], path
        assert missing_names(header, entry.columns) == [], path
        checked += 1
    assert checked >= 10


def test_each_json_file_has_the_described_keys(project: Path) -> None:
    checked = 0
    for path in files(project):
        entry = entry_of(path)
        if entry is None or not entry.keys:
            continue
        document = json.loads((project / path).read_text(encoding="utf-8"))
        optional = optional_keys(entry)
        assert set(entry.keys) - set(document) <= optional, path
        if not entry.free_keys:
            assert set(document) - {"digest"} <= set(entry.keys), path
        checked += 1
    assert checked >= 5


def optional_keys(entry: FileEntry) -> set[str]:
    return {name for name, (kind, _) in entry.keys.items() if "null" in kind}


def unknown_names(names: list[str], described: object) -> list[str]:
    assert isinstance(described, dict)
    return [name for name in names if not any(template_pattern(one).fullmatch(name) for one in described)]


def missing_names(names: list[str], described: object) -> list[str]:
    assert isinstance(described, dict)
    return [one for one in described if not any(template_pattern(one).fullmatch(name) for name in names)]


def runnable(project: Path) -> list[tuple[str, ...]]:
    """Return the commands of shell blocks that need nothing but a finished project."""
    found = []
    for line in commands("ecmf-pipe"):
        words = line.words[1:]
        elsewhere = any(re.match(r"/|\.\./|~", word) for word in words)
        inputs = [word for word in words if re.search(r"\.(mp4|csv|npz|mkv)$", word)]
        present = all((project / word).is_file() for word in inputs)
        excluded = words[0] in NOT_RUN or words[:2] == ("store", "import") or "--help" in words
        if line.complete and present and not elsewhere and not excluded:
            found.append(words)
    return list(dict.fromkeys(found))


def test_the_commands_of_the_pages_run(project: Path) -> None:
    lines = runnable(project)
    assert ("status",) in lines
    for words in lines:
        outputs = [word for option, word in pairwise(words) if option == "--out" or words[:2] == ("llm", "export")]
        for out in map(project.joinpath, outputs):  # another page may have written it
            if out.is_dir():
                shutil.rmtree(out)
            out.unlink(missing_ok=True)
        run(*words)
