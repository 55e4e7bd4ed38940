"""Assignment of GPUs and cores to workers and openers."""

from __future__ import annotations

import os

import pytest

from ecmf_pipeline.runner.machine import default_openers, hide_gpus, select_gpu, visible_gpus


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("0,2", ["0", "2"]), ("-1", []), ("", []), ("1,-1,2", ["1"]), ("GPU-3a, 1", ["GPU-3a", "1"])],
)
def test_visible_gpus_are_those_that_cuda_sees(monkeypatch, variable, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus("auto") == visible_gpus("cuda") == expected
    assert visible_gpus("cpu") == visible_gpus("cuda:1") == []


def test_gpus_are_assigned_to_workers_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    select_gpu("auto", 3)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


def test_a_named_device_is_not_reassigned(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    select_gpu("cuda:1", 0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"


def test_hide_gpus_hides_all_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    hide_gpus()
    assert visible_gpus("auto") == []


@pytest.mark.parametrize(("cores", "workers", "openers"), [(2, 1, 2), (8, 1, 7), (32, 4, 28), (8, 4, 8), (1, 1, 2)])
def test_openers_use_the_cores_that_workers_leave(monkeypatch, cores, workers, openers):
    monkeypatch.setattr("ecmf_pipeline.runner.machine.usable_cores", lambda: cores)
    assert default_openers(workers) == openers
