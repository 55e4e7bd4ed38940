"""Opener processes of the extraction, and their number."""

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
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.run import extract, open_writers, plan_branch
from ecmf_pipeline.extraction.step import BranchEncoder, ClipToExtract, ExtractOpener, ExtractStepFactory
from ecmf_pipeline.media import clip_reader
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import Sampling, read_frames
from ecmf_pipeline.settings.params import branch_settings
from ecmf_pipeline.store import FeatureStore
from tests.extraction.brightness import MEDIA, MeanConfig, Project


@pytest.mark.slow
def test_openers_do_not_change_a_byte_of_the_stores(project, models, tmp_path):
    project.texts = {"face": ClipText("hello", "hello there"), "tree": ClipText("", "")}
    runs = {
        "without openers": ExtractConfig(batch_size=2, max_quarantined=1.0, workers=1, openers=0, device="cpu"),
        "with openers": ExtractConfig(batch_size=2, max_quarantined=1.0, workers=1, openers=2, device="cpu"),
    }
    files = {name: run_embedded(project, tmp_path / name, models, config) for name, config in runs.items()}
    assert {path.parts[0] for path in files["without openers"]} == {f"{modality.value}.zarr" for modality in Modality}
    assert files["with openers"] == files["without openers"]


def run_embedded(project: Project, folder: Path, models: Path, config: ExtractConfig) -> dict[Path, bytes]:
    """Extract all branches with the embedded encoders, and return the files of the stores.

    The branches read different numbers of frames.
    """
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
    with open_writers(settings, root) as writers:
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
    """Each branch gets the frames that it would read alone."""
    samplings: dict[tuple[Frames, ...], list[Sampling]] = {}
    read_samplings = clip_reader.read_samplings

    def record_samplings(path: Path, config: MediaConfig, counts: list[Frames]) -> list[Sampling]:
        samplings[tuple(counts)] = read_samplings(path, config, counts)
        return samplings[tuple(counts)]

    monkeypatch.setattr(clip_reader, "read_samplings", record_samplings)
    branches = {
        modality: BranchEncoder(modality, MeanConfig(frames=frames), {}, project.root(modality))
        for modality, frames in ((Modality.GLOBAL, 3), (Modality.FACE, "all"))
    }
    opener = ExtractOpener(ExtractStepFactory(branches, project.folder, MEDIA, project.faces, "cpu"))
    opened = opener.open(ClipToExtract(project.clips[0], {Modality.GLOBAL: "a", Modality.FACE: "a"}))
    opener.close()
    assert decodes == ["face"]
    assert list(samplings) == [(3, "all")]
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
def test_processes_are_chosen_for_the_machine(monkeypatch, project, gpus, workers, openers, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr("ecmf_pipeline.runner.machine.usable_cores", lambda: 8)
    config = run_module._choose_processes(
        ExtractConfig(workers=workers, openers=openers), [project.plan(Modality.GLOBAL)]
    )
    assert (config.workers, config.openers) == expected


def test_openers_without_workers_are_rejected():
    with pytest.raises(ValidationError, match="openers"):
        ExtractConfig(workers=0, openers=2)
