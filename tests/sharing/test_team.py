"""Tests of a team that shares features through DVC: colleagues pull features and train without extraction."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_colleague_trains_on_pulled_features_without_clips_and_weights(remote, ours, tmp_path):
    remote.add(ours)
    remote.log_in(ours)
    assert "pushed" in ours("dvc", "push")
    theirs = ours.clone(tmp_path / "theirs")
    remote.log_in(theirs)
    theirs("dvc", "pull", "index", "settings", "rewrite", "extract")
    assert theirs.features() == ours.features() != {}
    # Extraction is impossible in the clone: it has neither clips nor weights.
    assert not (theirs.folder / "corpus").exists()
    assert not (theirs.folder / "data" / "models").exists()
    assert "train (given labels): 14 clips" in theirs("ecmf-pipe", "train")
    assert theirs.features() == ours.features()


def test_pulled_features_are_not_extracted_again(local_remote, ours, tmp_path):
    local_remote.add(ours)
    ours("dvc", "push")
    theirs = ours.clone(tmp_path / "theirs")
    theirs("dvc", "pull", "index", "settings", "rewrite", "extract")
    theirs("ecmf-pipe", "models")
    output = theirs("ecmf-pipe", "extract")
    assert output.count(": 0 done, 14 reused") == 2
    assert "dvc pull" not in output


def test_pulled_outputs_are_up_to_date_and_new_training_settings_need_no_clips(local_remote, ours, tmp_path):
    local_remote.add(ours)
    ours("dvc", "push")
    theirs = ours.clone(tmp_path / "theirs")
    # DVC pulls all outputs and reports an error for the stages that have not run yet.
    assert "data/votes" in theirs("dvc", "pull", fails=True)
    assert not (theirs.folder / "data" / "models").exists(), "weights are not pushed"
    theirs("ecmf-pipe", "models")
    changed = {stage.split("@")[0] for stage in json.loads(theirs("dvc", "status", "--json"))}
    assert changed == {
        "segment",
        "index",
        "settings",
        "vote",
        "refine",
        "train",
        "predict",
        "ablate",
        "evaluate",
        "report",
    }
    assert "Running stage" not in theirs("dvc", "repro", "--single-item", "train@given")
    theirs.change({"train": {"training": {"epochs": 3}}})
    planned = theirs("dvc", "repro", "--dry", "--single-item", "train@given")
    assert "Running stage 'train@given'" in planned
    assert "index" not in planned


def test_only_features_of_new_clips_are_computed_and_pushed(local_remote, ours, add_clips, tmp_path):
    local_remote.add(ours)
    ours("dvc", "push")
    theirs = ours.clone(tmp_path / "theirs")
    theirs("dvc", "pull", "extract")
    before, size_before = ours.features(), folder_size(tmp_path / "remote")
    add_clips(ours, 14, 16)
    assert "extract audio: 2 done, 14 reused" in ours("dvc", "repro", "extract@audio")
    after = ours.features()
    assert {path: after[path] for path in before} == before
    ours("dvc", "push", "extract@audio")
    new = sum(len(content) for path, content in after.items() if path not in before)
    listing = 200 * sum(path.startswith("audio.zarr") for path in after)  # DVC pushes a new list of all files
    assert 0 < folder_size(tmp_path / "remote") - size_before <= new + listing
    ours.commit("Two more clips")
    theirs("git", "pull", "--quiet")
    theirs("dvc", "pull", "extract")
    assert theirs.features() == after


def test_switching_the_encoder_back_reuses_features_of_a_colleague(local_remote, ours, tmp_path):
    local_remote.add(ours)
    ours.change({"encoders": {"efficientnet_lite0": {"type": "efficientnet_lite0", "fit": "stretch"}}})
    assert "extract global: 14 done, 0 reused" in ours("dvc", "repro", "extract@global")
    ours.commit("Stretch the frames")
    ours("dvc", "push")
    theirs = ours.clone(tmp_path / "theirs")
    theirs("dvc", "pull", "index", "settings", "rewrite", "extract")
    theirs("ecmf-pipe", "models")
    assert "extract global: 0 done, 14 reused" in theirs("ecmf-pipe", "extract", "--modality", "global")
    theirs.change({"encoders": {"efficientnet_lite0": {"type": "efficientnet_lite0", "fit": "crop"}}})
    assert "extract global: 0 done, 14 reused" in theirs("ecmf-pipe", "extract", "--modality", "global")


def test_features_that_two_colleagues_added_are_merged(local_remote, ours, add_clips, tmp_path):
    local_remote.add(ours)
    ours("dvc", "push")
    theirs = ours.clone(tmp_path / "theirs")
    theirs("dvc", "pull", "sample", "index", "settings", "rewrite", "extract")
    add_clips(ours, 14, 16)
    ours("dvc", "repro", "extract@audio")
    ours.commit("Clips 14 and 15")
    ours("dvc", "push", "extract@audio", "index", "rewrite")
    add_clips(theirs, 0, 14)
    add_clips(theirs, 16, 18)
    assert "extract audio: 2 done, 14 reused" in theirs("dvc", "repro", "extract@audio")
    theirs.commit("Clips 16 and 17")

    # The steps of docs/guides/sharing.md.
    assert "CONFLICT" in theirs("git", "pull", "--quiet", "--no-rebase", fails=True)
    shutil.copytree(theirs.folder / "data" / "features", tmp_path / "mine")
    theirs("git", "checkout", "--theirs", "dvc.lock", "data/metrics")
    theirs("dvc", "pull", "--force", "index", "settings", "rewrite", "extract")
    theirs("sh", "-c", f"cp -rn '{tmp_path / 'mine'}/.' data/features/ || true")  # cp may fail if it skips files
    add_clips(theirs, 14, 16)
    assert "extract audio: 0 done, 18 reused" in theirs("dvc", "repro", "extract@audio")
    theirs.commit("Both")


def test_extract_warns_of_shared_features_before_it_starts(ours, local_remote, add_clips, tmp_path):
    local_remote.add(ours)
    ours("dvc", "push")
    theirs = ours.clone(tmp_path / "theirs")
    theirs("dvc", "pull", "index", "rewrite")
    theirs("ecmf-pipe", "models")
    add_clips(theirs, 0, 14)
    extract = [sys.executable, "-m", "ecmf_pipeline", "extract", "--modality", "audio"]
    output = theirs(*extract)
    assert output.index("dvc pull data/features/audio.zarr") < output.index("extract audio: 14 done")
    assert "dvc pull" not in theirs(*extract)


def test_lock_file_with_merge_conflicts_does_not_stop_extract(ours):
    shutil.rmtree(ours.folder / "data" / "features" / "audio.zarr")
    shutil.rmtree(ours.folder / ".ecmf")  # kept parts would restore the store
    lock = ours.folder / "dvc.lock"
    lock.write_text("<<<<<<< HEAD\n" + lock.read_text())
    assert "extract audio: 14 done" in ours("ecmf-pipe", "extract", "--modality", "audio")
