"""Several encoders for one modality, through the command line: each has features of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from skimage import data

from ecmf_pipeline.store import FeatureStore, current_fingerprints


def ecmf_pipe(folder: Path, *args: str) -> str:
    command = [sys.executable, "-m", "ecmf_pipeline", *args]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ)
    assert result.returncode == 0, result.stderr
    return result.stdout


def parts(root: Path) -> dict[str, bytes]:
    """Return the files of all parts of a store."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.glob("*/part-*/**/*") if path.is_file()
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory, models, make_clip) -> Path:
    folder = tmp_path_factory.mktemp("several")
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
def test_each_encoder_has_features_of_its_own_and_a_second_does_not_recompute_the_first(project):
    params = project / "params.yaml"
    both = params.read_text()
    params.write_text(both.replace("[efficientnet_lite0, mini_xception]", "efficientnet_lite0"))
    assert "extract face: 2 done" in ecmf_pipe(project, "extract", "--modality", "face")
    params.write_text(both)
    output = ecmf_pipe(project, "extract", "--modality", "face")
    assert "extract face (efficientnet_lite0): 0 done, 2 reused" in output
    assert "extract face (mini_xception): 2 done" in output
    assert ecmf_pipe(project, "extract", "--modality", "face").count("0 done, 2 reused") == 2
    root = project / "data" / "features" / "face.zarr"
    stores = [FeatureStore.open(root, name) for name in current_fingerprints(root)]
    assert [store.dim for store in stores] == [1280, 180]
    assert [store.provenance["model"] for store in stores] == ["efficientnet_lite0", "mini_xception"]
    assert all(store.load(["clip_0", "clip_1"]).present.all() for store in stores)
    listing = ecmf_pipe(project, "store", "ls")
    assert "model efficientnet_lite0" in listing
    assert "model mini_xception" in listing
    rows = [line.split() for line in ecmf_pipe(project, "status").splitlines() if line.startswith("extract face")]
    assert [row[1] for row in rows] == ["face.efficientnet_lite0", "face.mini_xception"]
    assert all(row[2:] == ["2", "0", "0", "0"] for row in rows)
    alone = parts(root)
    shutil.rmtree(root)
    shutil.rmtree(project / ".ecmf", ignore_errors=True)
    twin = both.replace("mini_xception]", "mini_xception, twin]") + "encoders: {twin: {type: efficientnet_lite0}}\n"
    params.write_text(twin)  # another name for the first encoder
    output = ecmf_pipe(project, "extract", "--modality", "face")
    assert output.count("extract face (") == output.count(": 2 done") == 2
    assert parts(root) == alone
