"""The generated reference pages are complete and up to date, and the site builds."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ecmf_pipeline.core.clips import MANIFEST_COLUMNS
from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.labels.decision_files import NEXT_COLUMNS, REFINED_COLUMNS
from ecmf_pipeline.runner.quarantine import QuarantineEntry
from tools.reference.__main__ import pages as generated_pages
from tools.reference.cli import commands, option_names
from tools.reference.files import FILES, entry_of
from tools.reference.params import all_keys, section_keys, stages_by_section


def test_the_generated_pages_are_up_to_date() -> None:
    stale = [path.name for path, text in generated_pages().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run `python -m tools.reference`"


def test_each_key_of_params_is_on_its_page(repository: Path) -> None:
    page = (repository / "docs" / "reference" / "params.md").read_text(encoding="utf-8")
    keys = list(all_keys())
    assert {"train.training.folds", "llm.server.base_url", "encoders.imported.dtype"} <= {key.path for key in keys}
    assert [key.path for key in keys if key.row not in page] == []


def test_each_key_of_the_shipped_params_is_described(repository: Path) -> None:
    def paths(values: dict, above: str = "") -> set[str]:
        found = set()
        for name, value in values.items():
            path = f"{above}{name}"
            nested = isinstance(value, dict) and value and path not in leaves
            found |= paths(value, f"{path}.") if nested else {path}
        return found

    leaves = {key.path for key in all_keys()}
    shipped = yaml.safe_load((repository / "params.yaml").read_text(encoding="utf-8"))
    assert paths(shipped) - leaves <= {"models", "encoders"}  # empty sections


def test_a_key_without_a_description_is_an_error() -> None:
    class Undocumented(Config):
        """A section."""

        unknown: int = 1

    with pytest.raises(LookupError):
        list(section_keys(Undocumented, "section"))


def test_each_section_names_its_stages(repository: Path) -> None:
    assert "train" in stages_by_section(repository)["train"]
    assert "extract" in stages_by_section(repository)["media"]


def test_each_command_and_option_is_on_its_page(repository: Path) -> None:
    page = (repository / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    found = dict(commands())
    assert {"extract", "store export", "llm plan"} <= set(found)
    for name, command in found.items():
        assert f"### {name}\n" in page
        section = page.split(f"### {name}\n")[1].split("\n### ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert all(f"`{spelling}`" in section for spelling in option_names(parameter))


@pytest.mark.parametrize(
    ("path", "columns"),
    [
        ("data/manifest.csv", MANIFEST_COLUMNS),
        ("data/labels/refined.csv", REFINED_COLUMNS),
        ("data/labels/next.csv", NEXT_COLUMNS),
        ("data/quarantine/index.csv", tuple(field.name for field in dataclasses.fields(QuarantineEntry))),
    ],
)
def test_the_columns_are_those_of_the_code(path: str, columns: tuple[str, ...]) -> None:
    entry = entry_of(path)
    assert entry is not None
    assert tuple(name for name in entry.columns if "<" not in name) == columns


def test_the_columns_of_predictions_are_those_that_are_written(tmp_path: Path) -> None:
    import numpy as np

    table = PredictionTable(
        ("a",), ("train",), np.array([True]), ("",), ("x", "y"), np.array([[0.5, 0.5]], np.float32), ("face",),
        np.array([[1.0]], np.float32),
    )  # fmt: skip
    table.write(tmp_path / "fusion.csv")
    header = (tmp_path / "fusion.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    entry = entry_of("data/predictions/given/fusion.csv")
    assert entry is not None
    names = list(entry.columns)
    assert [name for name in header if not name.startswith(("p_", "w_"))] == names[:-2]


def test_each_output_of_dvc_is_described(repository: Path) -> None:
    stages = yaml.safe_load((repository / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    outputs = {
        output if isinstance(output, str) else next(iter(output))
        for stage in stages.values()
        for kind in ("outs", "metrics")
        for output in stage.get("do", stage).get(kind, ())
    }
    described = [entry.path for entry in FILES]
    for output in outputs - {"${item.submission}"}:
        folder = f"{output.partition('${')[0].rstrip('/')}/"
        assert entry_of(output) or any(path.startswith(folder) for path in described), output


def test_the_site_builds_without_warnings(repository: Path, tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site" / "reference" / "params.html").read_text(encoding="utf-8")
    assert "modality_dropout" in page
    assert 'src="http' not in page  # nothing is loaded from elsewhere
