"""Processes that open clips for others, and how many there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from ecmf_pipeline.core.clips import ClipText, Modality
from ecmf_pipeline.core.config import Frames
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig
from ecmf_pipeline.encoders.config import EfficientNetConfig, EgemapsConfig, MiniXceptionConfig, TextConfig
from ecmf_pipeline.extraction import run as run_module
from ecmf_pipeline.extraction import step as opening_module
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.run import extract, plan_branch, writing
from ecmf_pipeline.extraction.step import ClipToExtract, EncoderOfBranch, ExtractOpener, ExtractSteps
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import Sampling, read_frames
from ecmf_pipeline.settings.params import branch_settings
from ecmf_pipeline.store import FeatureStore
from tests.extraction.brightness import MEDIA, MeanConfig, Project


@pytest.mark.slow
def test_what_openers_open_gives_the_same_stores_byte_by_byte(project, models, tmp_path):
    project.texts = {"face": ClipText("so", "so it is"), "tree": ClipText("", "")}
    runs = {
        "whole": ExtractConfig(batch_size=2, max_quarantined=1.0, workers=1, openers=0, device="cpu"),
        "staged": ExtractConfig(batch_size=2, max_quarantined=1.0, workers=1, openers=2, device="cpu"),
    }
    found = {name: run_embedded(project, tmp_path / name, models, config) for name, config in runs.items()}
    assert {path.parts[0] for path in found["whole"]} == {f"{modality.value}.zarr" for modality in Modality}
    assert found["staged"] == found["whole"]


def run_embedded(project: Project, folder: Path, models: Path, config: ExtractConfig) -> dict[Path, bytes]:
    """All branches with the embedded encoders and different numbers of frames; the stores' files."""
    encoders: dict[Modality, BaseEncoderConfig] = {
        Modality.GLOBAL: EfficientNetConfig(weights=models / "efficientnet_lite0/efficientnet-lite0-57934424.pth"),
        Modality.FACE: MiniXceptionConfig(
            weights=models / "mini_xception/emotion_model.hdf5",
            face_landmarker=models / "face_landmarker/face_landmarker.task",
            frames="all",
        ),
        Modality.AUDIO: EgemapsConfig(),
        Modality.TEXT: TextConfig(model=str(models / "minilm")),
    }

    def root(modality: Modality) -> Path:
        return folder / f"{modality.value}.zarr"

    settings = {
        modality: branch_settings(modality, encoder, MEDIA, project.faces) for modality, encoder in encoders.items()
    }
    with writing(settings, root) as writers:
        branches = [
            plan_branch(
                modality,
                project.clips,
                project.texts,
                encoder=encoder,
                settings=settings[modality],
                root=root(modality),
                quarantine_path=folder / f"{modality.value}.csv",
            )
            for modality, encoder in encoders.items()
        ]
        report = extract(
            branches,
            project.clips,
            project.texts,
            writers=writers,
            corpus_root=project.folder,
            media=MEDIA,
            faces=project.faces,
            config=config,
        )
    assert report.done == {"global": 3, "face": 2, "audio": 2, "text": 1}
    assert [len(FeatureStore.open(root(modality)).row("face").values) for modality in encoders] == [4, 8, 1, 1]
    return {
        path.relative_to(folder): path.read_bytes()
        for modality in encoders
        for path in sorted(root(modality).rglob("*"))
        if path.is_file()
    }


def test_branches_that_read_different_frames_share_one_decode(project, decodes, monkeypatch):
    """What each is given is what it would read by itself."""
    given: dict[tuple[Frames, ...], list[Sampling]] = {}
    counted = opening_module.read_samplings

    def kept(path: Path, config: MediaConfig, counts: list[Frames]) -> list[Sampling]:
        given[tuple(counts)] = counted(path, config, counts)
        return given[tuple(counts)]

    monkeypatch.setattr(opening_module, "read_samplings", kept)
    branches = {
        modality: EncoderOfBranch(MeanConfig(frames=frames), {}, project.root(modality))
        for modality, frames in ((Modality.GLOBAL, 3), (Modality.FACE, "all"))
    }
    opener = ExtractOpener(ExtractSteps(branches, project.folder, MEDIA, project.faces, "cpu"))
    opened = opener.open(ClipToExtract(project.clips[0], {Modality.GLOBAL: "a", Modality.FACE: "a"}))
    opener.close()
    assert decodes == ["face"]
    assert list(given) == [(3, "all")]
    frames, times = read_frames(project.folder / "face.mp4", MediaConfig(frames=3))
    np.testing.assert_array_equal(opened[Modality.GLOBAL].prepared, frames)
    np.testing.assert_array_equal(opened[Modality.GLOBAL].side["times"], times)
    assert len(opened[Modality.FACE].prepared.crops) == len(opened[Modality.FACE].side["times"]) == 8


@pytest.mark.parametrize(
    ("gpus", "workers", "openers", "expected"),
    [
        ("", None, None, (None, 0)),
        ("", 2, 3, (2, 3)),
        ("", 0, None, (0, 0)),
        ("0,1", None, None, (2, 6)),
        ("0", None, None, (1, 7)),
        ("0,1,2,3", None, None, (4, 8)),
        ("0,1", 3, 1, (3, 1)),
        ("0,1", None, 0, (2, 0)),
        ("0,1", 0, None, (0, 0)),
    ],
)
def test_processes_are_shared_out_by_what_the_machine_has(monkeypatch, project, gpus, workers, openers, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr("ecmf_pipeline.runner.machine.usable_cores", lambda: 8)
    config = run_module._with_processes(
        ExtractConfig(workers=workers, openers=openers), [project.plan(Modality.GLOBAL)]
    )
    assert (config.workers, config.openers) == expected


def test_openers_without_workers_are_refused():
    with pytest.raises(ValidationError, match="openers: there are none without workers"):
        ExtractConfig(workers=0, openers=2)
