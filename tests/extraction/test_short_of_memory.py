"""What a clip costs that takes more memory than there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.clips import ClipText, Modality
from ecmf_pipeline.extraction import step as opening_module
from ecmf_pipeline.faces.detector import FaceTrack
from tests.extraction.brightness import MeanEncoder, Project, reasons


def run_short_of_memory(project: Project, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, fails: Any) -> Any:
    """A run of all branches with transcripts; ``place.name`` calls ``fails`` before anything else."""
    project.texts = {clip.clip_id: ClipText("a", "b") for clip in project.clips}
    real = getattr(place, name)

    def short(*given: Any) -> Any:
        fails(*given)
        return real(*given)

    monkeypatch.setattr(place, name, short)
    return project.run(*Modality)


def numpy_runs_out() -> None:
    np.empty(2**50)


def torch_runs_out() -> None:
    import torch

    torch.empty(10**15)


def opencv_runs_out() -> None:
    import cv2

    cv2.resize(np.zeros((1, 1), np.uint8), (2**20, 2**30))


@pytest.mark.parametrize("runs_out", [numpy_runs_out, torch_runs_out, opencv_runs_out])
def test_pictures_that_take_too_much_memory_cost_neither_text_nor_sound(project, monkeypatch, runs_out):
    def fails(path: Path, *_: Any) -> None:
        if path.stem == "face":
            runs_out()

    report = run_short_of_memory(project, monkeypatch, opening_module, "read_samplings", fails)
    assert report.done == {"global": 2, "face": 1, "text": 3}
    assert reasons(project, Modality.GLOBAL) == {"face": "OutOfMemory"}
    assert reasons(project, Modality.FACE) == {"face": "OutOfMemory", "tree": "NoFaceFound"}
    assert reasons(project, Modality.AUDIO) == {"face": "NothingToEncode", "tree": "NothingToEncode"}
    assert reasons(project, Modality.TEXT) == {}


@pytest.mark.parametrize("runs_out", [numpy_runs_out, torch_runs_out, opencv_runs_out])
def test_an_encoder_that_takes_too_much_memory_for_a_clip_costs_that_branch_of_it(project, monkeypatch, runs_out):
    def fails(_: MeanEncoder, view: Any) -> None:
        if isinstance(view, FaceTrack):
            runs_out()

    report = run_short_of_memory(project, monkeypatch, MeanEncoder, "_one", fails)
    assert report.done == {"global": 3, "text": 3}
    assert reasons(project, Modality.GLOBAL) == reasons(project, Modality.TEXT) == {}
    assert reasons(project, Modality.FACE) == {"face": "OutOfMemory", "mute": "OutOfMemory", "tree": "NoFaceFound"}


def test_another_bug_of_a_library_stops_the_run(project, monkeypatch):
    def fails(*_: Any) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_short_of_memory(project, monkeypatch, MeanEncoder, "_one", fails)
