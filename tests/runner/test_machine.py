"""Sharing out GPUs among workers."""

from __future__ import annotations

import os

import pytest

from ecmf_pipeline.runner.machine import default_openers, hide_gpus, select_gpu, visible_gpus


@pytest.mark.parametrize(
    ("asked", "seen"), [("0,2", ["0", "2"]), ("-1", []), ("", []), ("1,-1,2", ["1"]), ("GPU-3a, 1", ["GPU-3a", "1"])]
)
def test_the_gpus_are_those_that_cuda_would_see(monkeypatch, asked, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    assert visible_gpus("auto") == visible_gpus("cuda") == seen
    assert visible_gpus("cpu") == visible_gpus("cuda:1") == []


def test_workers_take_turns(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    select_gpu("auto", 3)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


def test_a_certain_device_is_left_to_whoever_named_it(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    select_gpu("cuda:1", 0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"


def test_an_opener_sees_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    hide_gpus()
    assert visible_gpus("auto") == []


@pytest.mark.parametrize(("cores", "workers", "openers"), [(2, 1, 2), (8, 1, 7), (32, 4, 28), (8, 4, 8), (1, 1, 2)])
def test_openers_take_the_cores_that_workers_leave(monkeypatch, cores, workers, openers):
    monkeypatch.setattr("ecmf_pipeline.runner.machine.usable_cores", lambda: cores)
    assert default_openers(workers) == openers
