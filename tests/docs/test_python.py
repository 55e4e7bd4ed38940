"""The page of the stable Python names, and the notebook."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PACKAGES = ("store", "fusion", "labels")

CHECKS = """
assert labels.index[features.isna().any(axis=1)].tolist() == clip_ids[-10:]
assert search.best_score_ > 0.5
np.testing.assert_array_equal(shares.loc[clip_ids[-10:], "audio"], 1)
assert combined.calibrated
assert right > 0.8
"""


def test_the_page_lists_exactly_the_public_names(repository: Path) -> None:
    page = (repository / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    listed = {
        (package, name)
        for package, names in re.findall(r"^\| `(\w+)` \| (.+?) \|", page, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    public = {
        (package, name) for package in PACKAGES for name in importlib.import_module(f"ecmf_pipeline.{package}").__all__
    }
    assert listed == public


@pytest.mark.parametrize("package", PACKAGES)
def test_dir_lists_the_public_names_and_each_exists(package: str) -> None:
    module = importlib.import_module(f"ecmf_pipeline.{package}")
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name).__doc__
        assert getattr(module, name).__module__.startswith(f"ecmf_pipeline.{package}.")


def test_public_packages_are_imported_without_torch() -> None:
    code = (
        "import sys, ecmf_pipeline as package; packages = dir(package); "
        "names = [dir(getattr(package, name)) for name in packages]; print(packages, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['fusion', 'labels', 'store'] False"


@pytest.fixture(scope="module")
def notebook(repository: Path) -> nbformat.NotebookNode:
    return nbformat.read(repository / "docs" / "notebooks" / "python.ipynb", as_version=4)


@pytest.mark.slow
def test_the_notebook_runs(notebook: nbformat.NotebookNode, tmp_path: Path) -> None:
    copy = nbformat.from_dict(notebook)
    copy.cells.append(nbformat.v4.new_code_cell(CHECKS))
    NotebookClient(copy, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "features" / "face.zarr").is_dir()


def test_the_stored_outputs_are_complete_and_hold_no_path_of_a_machine(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"execute_result"}  # no error, no warning, no progress bar
    for output in outputs:
        assert not re.search(r"/(home|tmp|work|root|Users)/", str(output))
