"""Time and memory of the stages: the last and the longest run, of stages only, and only if they succeed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.resources import read_resources, recorded


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_longest_run_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "resources.json"
    for seconds in (0.05, 0.0):
        with recorded(["train", "--labels", "refined"], path):
            work(seconds)
    record = read_resources(path)["train --labels refined"]
    assert 0.04 <= record["longest"]["cpu_seconds"] < 1
    assert record["last"]["cpu_seconds"] < 0.04
    assert 10**7 < record["last"]["memory"] < 10**11


def test_the_number_of_clips_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths.METRICS.mkdir(parents=True)
    for content, clips in ((None, 0), ("{", 0), ('{"clips": 132}', 132)):
        if content is not None:
            paths.INDEX_METRICS.write_text(content)
        with recorded(["vote"]):
            pass
        assert read_resources()["vote"]["last"]["clips"] == clips


def test_other_commands_and_failed_stages_are_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "resources.json"
    for arguments in (["status"], [], ["predict", "--video", "a.mp4"], ["refine", "--dry-run"]):
        with recorded(arguments, path):
            pass
    with pytest.raises(ValueError, match="failed"), recorded(["index"], path):
        raise ValueError("failed")
    with recorded(["index"], tmp_path / "no project" / "resources.json"):
        pass
    assert not path.exists()
    assert not (tmp_path / "no project").exists()
