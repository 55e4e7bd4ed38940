"""Tests of `tools.soak.mutants`: damaged media files cause no faults, and the tool detects faults."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.clips import read_manifest
from ecmf_pipeline.store import FeatureStore
from tests.zoo.command_line import BRANCHES, ecmf_pipe, extract_arguments, new_project, quarantined
from tools.soak import mutants
from tools.soak.media_sources import SOURCES, write_sources
from tools.soak.mutants import REQUIRED, Mutant, Outcome, Reader, Tally, fuzz, read_mutant

SEED = 3
N_MUTANTS = 3


@pytest.mark.parametrize("container", REQUIRED)
def test_damaged_files_are_read_or_refused(container: str) -> None:
    ((_, tally),) = fuzz([container], range(12), SEED)
    assert tally.faults == []
    assert tally.mutants == 12
    assert tally.read > 0
    assert tally.refusals


def test_a_seed_determines_a_mutant(tmp_path: Path) -> None:
    sources = write_sources(tmp_path, "wav")
    content = Mutant("wav", SEED, 1).content(sources)
    assert content == Mutant("wav", SEED, 1).content(write_sources(tmp_path, "wav"))
    assert content != sources[1]
    assert content != Mutant("wav", SEED + 1, 1).content(sources)


def test_another_exception_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0.wav"
    write_sources(tmp_path, "wav")
    monkeypatch.setattr(mutants, "MAX_BYTES", 2**40)  # other tests of this process have used memory
    assert read_mutant(path).faults == []
    monkeypatch.setattr("ecmf_pipeline.media.audio.read_audio", lambda *_: np.full(5, np.nan, np.float32))
    monkeypatch.setattr("ecmf_pipeline.media.containers.probe_media", lambda _: 1 / 0)
    monkeypatch.setattr(mutants, "MAX_BYTES", 1)
    assert [fault.split(":")[0] for fault in read_mutant(path).faults] == ["probe", "audio", "memory"]


def test_a_crash_is_a_fault_and_the_next_file_is_read(tmp_path: Path) -> None:
    write_sources(tmp_path, "wav")
    with contextlib.closing(Reader()) as reader:
        os.kill(reader.pid, signal.SIGKILL)
        crashed = reader.read(tmp_path / "0.wav")
        assert "-9" in crashed.faults[0]
        assert reader.read(tmp_path / "0.wav").refusals == {"pictures": "NoVideoStream"}


def test_the_table_counts_each_class_of_errors_once_for_a_file() -> None:
    tally = Tally()
    tally.add(Mutant("mp4", 0, 0), Outcome({"probe": "UnreadableMedia", "audio": "UnreadableMedia"}))
    tally.add(Mutant("mp4", 0, 1), Outcome())
    assert (tally.mutants, tally.read, dict(tally.refusals)) == (2, 1, {"UnreadableMedia": 1})


@pytest.mark.slow
def test_damaged_files_stop_no_run(tmp_path: Path, models: Path) -> None:
    """`index` and `extract` on valid clips and damaged ones: each has features, or a reason why not."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for container in SOURCES:
        sources = write_sources(tmp_path, container)
        for number in range(N_MUTANTS):
            path = clips / f"{container}_{number}.mp4"
            path.write_bytes(Mutant(container, SEED, number).content(sources))
    valid = [f"valid_{number}" for number in range(4)]
    for number, name in enumerate(valid):  # copies with different bytes
        (clips / f"{name}.mp4").write_bytes((tmp_path / "0.mp4").read_bytes() + b"\0\0\0\x0cfree%04d" % number)
    project = new_project(tmp_path / "project", models, clips, {"clip_timeout": 30.0})
    for arguments in (("index",), (*extract_arguments(), "--workers", "2")):
        done = ecmf_pipe(project, *arguments)
        assert done.returncode in {0, 1}, done.stderr
        assert "Traceback" not in done.stderr
    refused = quarantined(project, "index")
    rows = {clip.clip_id: clip for clip in read_manifest(project / "data/manifest.csv")}
    assert len(rows) == N_MUTANTS * len(SOURCES) + len(valid)
    for branch in BRANCHES:
        store = FeatureStore.open(project / f"data/features/{branch}.zarr")
        with_features = {name for name, clip in rows.items() if store.holds(name, clip.digest)}
        assert with_features >= set(valid)
        quarantine = quarantined(project, f"extract-{branch}")
        assert {row["reason"] for row in quarantine.values()}.isdisjoint({"UnexpectedError", "FileUnreachable"})
        without_stream = {
            n for n, clip in rows.items() if not (clip.has_audio if branch == "audio" else clip.has_video)
        }
        assert with_features | set(quarantine) | set(refused) | without_stream == set(rows)
