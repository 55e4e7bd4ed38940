"""Several encoders for one modality, through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from ecmf_pipeline.store import FeatureStore


def ecmf_pipe(folder: Path, *args: str) -> str:
    command = [sys.executable, "-m", "ecmf_pipeline", *args]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory, models, make_clip) -> Path:
    folder = tmp_path_factory.mktemp("joined")
    (folder / "data").mkdir()
    (folder / "data" / "models").symlink_to(models.resolve())
    face = data.astronaut()[:256, 64:384]
    for number in range(2):
        make_clip(folder / "clips" / f"clip_{number}.mp4", pictures=10, photograph=face[:, :: 1 - 2 * number])
    (folder / "params.yaml").write_text(
        "preset: embedded\n"
        "corpus: {kind: folder, root: clips}\n"
        "media: {frames: 3}\n"
        "extract: {encoders: {face: [efficientnet_lite0, mini_xception]}, workers: 1}\n"
    )
    for verb in ("index", "rewrite"):
        ecmf_pipe(folder, verb)
    return folder


@pytest.mark.slow
def test_features_are_concatenated_and_not_computed_twice(project):
    assert "extract face: 2 done" in ecmf_pipe(project, "extract")
    assert "extract face: 0 done, 2 reused" in ecmf_pipe(project, "extract")
    store = FeatureStore.open(project / "data" / "features" / "face.zarr")
    assert store.dim == 1280 + 180
    assert [member["type"] for member in store.settings["encoder"]["members"]] == [
        "efficientnet_lite0",
        "mini_xception",
    ]
    loaded = store.load(["clip_0", "clip_1"])
    assert loaded.present.all()
    assert np.abs(loaded.values[:, :1280]).max() > 0
    assert np.abs(loaded.values[:, 1280:]).max() > 0


def test_provenance_lists_each_encoder(project):
    ecmf_pipe(project, "extract")
    store = FeatureStore.open(project / "data" / "features" / "face.zarr")
    assert [member["model"] for member in store.provenance["members"]] == ["efficientnet_lite0", "mini_xception"]
    assert str(project) not in (store.folder / "zarr.json").read_text()
    listing = ecmf_pipe(project, "store", "ls")
    assert "model efficientnet_lite0" in listing
    assert " + model mini_xception" in listing
    assert "computed with " in listing
    assert "mediapipe" in listing


def test_status_and_encoders_list_joined_encoders(project):
    assert "efficientnet_lite0" in ecmf_pipe(project, "encoders", "--list").split("in use:")[1]
    line = next(line for line in ecmf_pipe(project, "status").splitlines() if line.startswith("extract face"))
    assert line.split()[2:] == ["2", "0", "0", "0"]
