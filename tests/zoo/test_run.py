"""The zoo through the command line, with a decoder that hangs, crashes or runs out of memory, and on a full disk."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.clips import read_manifest
from ecmf_pipeline.store import FeatureStore
from tests.zoo.command_line import (
    BRANCHES,
    DECODER_FAULT_ONCE,
    DECODER_FAULTS,
    ZooRun,
    ecmf_pipe,
    extract_arguments,
    new_project,
    quarantined,
    run_zoo,
)
from tests.zoo.films import Film
from tests.zoo.specimens import write_healthy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def zoo_run(tmp_path_factory, models) -> ZooRun:
    return run_zoo(tmp_path_factory.mktemp("zoo_run"), models)


@pytest.mark.parametrize("branch", BRANCHES)
def test_each_specimen_is_right_or_quarantined_with_expected_reason(zoo_run, branch):
    clips = {clip.path: clip for clip in read_manifest(zoo_run.project / "data/manifest.csv")}
    store = FeatureStore.open(zoo_run.project / f"data/features/{branch}.zarr")
    indexed, extracted = (quarantined(zoo_run.project, stage) for stage in ("index", f"extract-{branch}"))
    for specimen in zoo_run.specimens:
        if specimen.finding:
            assert specimen.name not in clips
            continue
        clip = clips[specimen.name]
        allowed = specimen.pictures if branch == "global" else specimen.sound
        if store.holds(clip.clip_id, clip.digest):
            assert "right" in allowed, specimen.name
            assert np.isfinite(store.row(clip.clip_id).values).all()
        elif clip.clip_id in indexed:
            assert indexed[clip.clip_id]["reason"] in allowed, specimen.name
        elif clip.has_video if branch == "global" else clip.has_audio:
            assert extracted[clip.clip_id]["reason"] in allowed, specimen.name
        else:
            assert allowed & {"NoVideoStream", "NoAudioStream"}, specimen.name


def test_decoder_failure_quarantines_only_its_clip(zoo_run):
    rows = quarantined(zoo_run.project, "extract-global")
    assert {name: rows[name]["reason"] for name in DECODER_FAULTS} == DECODER_FAULTS
    assert "SIGSEGV" in rows["segfaults"]["message"]
    assert "SIGABRT" in rows["aborts"]["message"]
    assert DECODER_FAULT_ONCE not in rows
    assert DECODER_FAULT_ONCE in FeatureStore.open(zoo_run.project / "data/features/global.zarr").newest()
    assert "Traceback" not in zoo_run.stderr


def test_video_decoder_failure_does_not_affect_audio(zoo_run):
    store = FeatureStore.open(zoo_run.project / "data/features/audio.zarr")
    rows = quarantined(zoo_run.project, "extract-audio")
    assert not {*DECODER_FAULTS, DECODER_FAULT_ONCE} & rows.keys()
    expected = store.row("healthy_1").values  # the same film
    for name in (*DECODER_FAULTS, DECODER_FAULT_ONCE):
        np.testing.assert_allclose(store.row(name).values, expected, rtol=1e-3, atol=1e-3)


def test_rotated_clips_have_features_of_upright_ones(zoo_run):
    store = FeatureStore.open(zoo_run.project / "data/features/global.zarr")
    turned = [store.row(f"phone_{degrees}").values.astype(np.float64) for degrees in (90, 180, 270)]
    for features in turned[1:]:
        assert np.corrcoef(features.ravel(), turned[0].ravel())[0, 1] > 0.98


def test_healthy_clips_have_the_features_of_a_run_without_the_zoo(zoo_run, models):
    clips = zoo_run.project.parent / "healthy"
    write_healthy(clips)
    alone = new_project(zoo_run.project.parent / "alone", models, clips, {})
    for words in (["index"], [*extract_arguments(), "--workers", "0"]):
        done = ecmf_pipe(alone, *words)
        assert done.returncode == 0, done.stderr
    for branch in BRANCHES:
        with_zoo, without_zoo = (
            FeatureStore.open(project / f"data/features/{branch}.zarr") for project in (zoo_run.project, alone)
        )
        for name in zoo_run.films:
            # The order of summation depends on the batch size.
            np.testing.assert_allclose(with_zoo.row(name).values, without_zoo.row(name).values, rtol=1e-3, atol=1e-3)
            assert with_zoo.row(name).side.keys() == without_zoo.row(name).side.keys()


def test_second_run_retries_no_clip(zoo_run):
    again = ecmf_pipe(zoo_run.project, *extract_arguments())
    assert again.returncode == 0, again.stderr
    assert all(f"extract {branch}: 0 " in again.stdout for branch in BRANCHES)


FULL_DISK = """
set -e
mkdir -p data/features kept
mount -t tmpfs -o size=1m none data/features
head -c {filler} /dev/zero > data/features/filler
{run} {extract} --workers {workers} > first.out 2> first.err || echo $? > first.code
rm data/features/filler
{run} {extract} > second.out 2> second.err
cp -r data/features/*.zarr kept
"""


@pytest.mark.parametrize(("workers", "filler"), [(0, 970_000), (1, 930_000)], ids=["first_batches", "first_parts"])
def test_full_disk_ends_run_with_one_message_and_keeps_finished_work(tmp_path, models, workers, filler):
    mounted = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs on this machine: {mounted.stderr.strip()}")
    (tmp_path / "clips").mkdir()
    for number in range(12):
        Film(texture=number + 1, durations=(40,) * 10).write(tmp_path / "clips" / f"clip_{number:02d}.mp4")
    project = new_project(tmp_path / "project", models, tmp_path / "clips", {"batch_size": 2, "part_size": 4})
    assert ecmf_pipe(project, "index").returncode == 0
    script = FULL_DISK.format(
        run=f"{sys.executable} -m ecmf_pipeline", extract=" ".join(extract_arguments()), workers=workers, filler=filler
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + (project / "second.err").read_text()
    stderr = (project / "first.err").read_text()
    assert (project / "first.code").read_text().strip() == "1", stderr
    assert stderr.count("No space left on device") == 1
    assert f"file system {project / 'data' / 'features'}" in stderr
    assert "Traceback" not in stderr
    counted = re.findall(r"extract (\w+): (\d+) \w+, (\d+) reused", (project / "second.out").read_text())
    assert {branch: int(done) + int(reused) for branch, done, reused in counted} == {"audio": 12, "global": 12}
    assert sum(int(reused) for _, _, reused in counted) >= 2
    for branch in BRANCHES:
        assert holds_each_clip_once(project / f"kept/{branch}.zarr", 12)


def holds_each_clip_once(root: Path, count: int) -> bool:
    store = FeatureStore.open(root)
    digests = store.digests()
    return (
        len(digests) == count
        and all(len(one) == 1 for one in digests.values())
        and store.load(list(digests)).present.all()
    )
