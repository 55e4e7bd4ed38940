"""Clips that run out of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.clips import ClipText, Modality
from ecmf_pipeline.faces.detector import FaceTrack
from ecmf_pipeline.media import clip_reader
from tests.extraction.brightness import MeanEncoder, Project, reasons


def run_with_fault(project: Project, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, fault: Any) -> Any:
    """Run all branches with ``owner.name`` patched to call ``fault`` first."""
    project.texts = {clip.clip_id: ClipText("a", "b") for clip in project.clips}
    function = getattr(owner, name)

    def with_fault(*args: Any) -> Any:
        fault(*args)
        return function(*args)

    monkeypatch.setattr(owner, name, with_fault)
    return project.run(*Modality)


def exhaust_numpy() -> None:
    np.empty(2**50)


def exhaust_torch() -> None:
    import torch

    torch.empty(10**15)


def exhaust_opencv() -> None:
    import cv2

    cv2.resize(np.zeros((1, 1), np.uint8), (2**20, 2**30))


@pytest.mark.parametrize("allocate", [exhaust_numpy, exhaust_torch, exhaust_opencv])
def test_running_out_of_memory_for_frames_affects_neither_text_nor_audio(project, monkeypatch, allocate):
    def fault(path: Path, *_: Any) -> None:
        if path.stem == "face":
            allocate()

    report = run_with_fault(project, monkeypatch, clip_reader, "read_samplings", fault)
    assert report.done == {"global": 2, "face": 1, "text": 3}
    assert reasons(project, Modality.GLOBAL) == {"face": "OutOfMemory"}
    assert reasons(project, Modality.FACE) == {"face": "OutOfMemory", "tree": "NoFaceFound"}
    assert reasons(project, Modality.AUDIO) == {"face": "NothingToEncode", "tree": "NothingToEncode"}
    assert reasons(project, Modality.TEXT) == {}


@pytest.mark.parametrize("allocate", [exhaust_numpy, exhaust_torch, exhaust_opencv])
def test_an_encoder_that_runs_out_of_memory_affects_only_its_branch(project, monkeypatch, allocate):
    def fault(_: MeanEncoder, view: Any) -> None:
        if isinstance(view, FaceTrack):
            allocate()

    report = run_with_fault(project, monkeypatch, MeanEncoder, "encode_one", fault)
    assert report.done == {"global": 3, "text": 3}
    assert reasons(project, Modality.GLOBAL) == reasons(project, Modality.TEXT) == {}
    assert reasons(project, Modality.FACE) == {"face": "OutOfMemory", "mute": "OutOfMemory", "tree": "NoFaceFound"}


def test_other_library_errors_affect_only_their_branch(project, monkeypatch):
    def fault(_: MeanEncoder, view: Any) -> None:
        if isinstance(view, FaceTrack):
            np.zeros(3) + np.zeros(4)

    report = run_with_fault(project, monkeypatch, MeanEncoder, "encode_one", fault)
    assert report.done == {"global": 3, "text": 3}
    expected = {"face": "UnexpectedError", "mute": "UnexpectedError", "tree": "NoFaceFound"}
    assert reasons(project, Modality.FACE) == expected
