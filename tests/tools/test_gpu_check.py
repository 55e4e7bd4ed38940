"""The checks of a CUDA device, run on the CPU with tiny models, and the packages that they need."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import torch

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.encoders.registry import build_preparer
from ecmf_pipeline.encoders.vision import VisionEncoder
from tools.gpu_check import command, memory
from tools.gpu_check.bench import N_SOURCES, NAMES, SMALL, Bench
from tools.gpu_check.fusion import check_fusion
from tools.gpu_check.inputs import SyntheticOpener, make_item
from tools.gpu_check.memory import check_halving
from tools.gpu_check.models import set_up
from tools.gpu_check.parity import centred_cosines, check_parity

REPOSITORY = Path(__file__).parents[2]
REQUIREMENTS = REPOSITORY / "requirements-gpu-check.txt"


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return set_up(tmp_path_factory.mktemp("bench"), "cpu", SMALL)


def listed() -> list[str]:
    lines = [line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    return [re.split(r"[<>=]", line)[0] for line in lines if line]


def test_without_a_cuda_device_the_exit_code_is_2(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("modality", list(NAMES))
def test_half_precision_has_parity(bench, modality):
    row = check_parity(bench, modality)
    assert row.passed, row.figures


def test_parity_fails_if_two_clips_are_swapped(bench, monkeypatch):
    encode = VisionEncoder.encode

    def swapped(self, views):
        first, second, *others = encode(self, views)
        return [second, first, *others] if self.settings["precision"] == "bf16" else [first, second, *others]

    monkeypatch.setattr(VisionEncoder, "encode", swapped)
    assert not check_parity(bench, Modality.GLOBAL).passed


def test_parity_fails_if_the_device_adds_noise(bench, monkeypatch):
    encode = VisionEncoder.encode

    def noisy(self, views):
        encodings = encode(self, views)
        if self.settings["precision"] == "bf16":
            for number, encoding in enumerate(encodings):
                noise = np.random.default_rng(number).normal(size=encoding.values.shape[1])
                encoding.values[:] += 0.1 * encoding.values.std() * noise
        return encodings

    monkeypatch.setattr(VisionEncoder, "encode", noisy)
    assert not check_parity(bench, Modality.GLOBAL).passed


def test_centring_hides_what_all_rows_share():
    rows = np.array([[1, 0], [0, 1], [-1, -1]], np.float32)
    np.testing.assert_allclose(centred_cosines(rows + 100, rows - 3).diagonal(), 1)


def test_out_of_memory_is_halved(bench):
    assert check_halving(bench).passed


def test_halving_fails_if_the_batch_size_stays(bench, monkeypatch):
    monkeypatch.setattr(memory.Inference, "_halve_batch_size", lambda self, _: setattr(self, "batch_size", 1))
    assert not check_halving(bench).passed


def test_the_fusion_is_trained(bench):
    assert check_fusion(bench).passed


def test_a_failed_check_makes_the_exit_code_1(monkeypatch, capsys):
    def broken(bench):
        raise RuntimeError("CUDA error: no kernel image is available")

    monkeypatch.setattr(command, "CHECKS", (broken, check_halving))
    assert command.main(["--device", "cpu", "--small"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("broken")] == ["FAIL"]
    assert lines[-1].startswith("1 of 2 checks passed")


@pytest.mark.parametrize("modality", list(NAMES))
def test_without_a_decoder_views_are_synthetic(bench, modality):
    preparer = build_preparer(bench.encoders[modality])
    opener = SyntheticOpener({modality: preparer}, bench.sizes)
    item, repeated, other = (make_item(bench, modality, number) for number in (0, N_SOURCES, 1))
    first, second, third = (pickle.dumps(opener.open(clip)) for clip in (item, repeated, other))
    assert first == second != third


def packages(names: list[str]) -> set[str]:
    """Return the installed packages that some packages need, and themselves."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name in found:
            continue
        try:
            required = distribution(name).requires or []
        except PackageNotFoundError:  # for another system, or optional
            continue
        found.add(name)
        names += [re.split(r"[^\w.-]", line)[0].lower() for line in required if "extra ==" not in line]
    return found


@pytest.mark.slow
def test_all_checks_pass_with_nothing_but_the_listed_packages(tmp_path):
    for package in packages(["torch", "transformers", *listed()]):
        installed = distribution(package)
        for top in {file.parts[0] for file in installed.files or [] if file.parts[0] not in {"..", "__pycache__"}}:
            (tmp_path / top).exists() or (tmp_path / top).symlink_to(str(installed.locate_file(top)))
    # The Python of the system, because workers of the one of the environment would find all of its packages.
    python = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    done = subprocess.run(
        [str(python), "-m", "tools.gpu_check", "--device", "cpu", "--small"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}", "PYTHONNOUSERSITE": "1"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(command.CHECKS)} of {len(command.CHECKS)} checks passed" in done.stdout
